"""Files that are one document each: plain text and HTML, compressed or not."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from gpt4x.preparation.decoding import decoded
from gpt4x.preparation.document import Document
from gpt4x.preparation.sources.opening import unpacked_file


def read_text(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[Document]:
  """Yields the text of a file as NAME:1; its charset is found by `decoding`."""
  for data in _content(name, opened, bad):
    yield Document(f"{name}:1", decoded(data))


def read_html(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[Document]:
  """Yields an HTML file as NAME:1, with `content`."""
  for data in _content(name, opened, bad):
    yield Document(f"{name}:1", content=data, fields={"content_type": "text/html"})


def _content(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[bytes]:
  """All of a file; nothing, if a part cannot be read."""
  data = None
  with unpacked_file(name, opened, bad) as file:
    data = file.read()
  if data is not None:
    yield data
