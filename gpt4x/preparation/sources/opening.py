"""Opening a file of a source: unpacked, and with what goes wrong told rather than raised."""

from collections.abc import Callable, Iterator
import contextlib
import io
from typing import BinaryIO, cast

from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import one_line


@contextlib.contextmanager
def unpacked_file(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None],
                  behind: Callable[[], str] = lambda: "") -> Iterator[io.BufferedReader]:
  """The content of a file, unpacked; ends the block and calls `bad` where it cannot be read, BEHIND what was."""
  try:
    with opened() as file:
      yield buffered(unpacked(buffered(file)))
  except READ_ERRORS as error:
    bad(f"{shown(name)} cannot be read{behind()} ({one_line(error)}): copy it again")


def buffered(file: BinaryIO) -> io.BufferedReader:
  """The file as one that can peek."""
  return cast(io.BufferedReader, file) if hasattr(file, "peek") else io.BufferedReader(cast(io.RawIOBase, file))
