"""Files to documents: one module a format, chosen by a file's name, and by its content where that does not tell.

A module has `read(name, opened, bad)`, which yields documents named NAME:RECORD. It is given a function that opens the
file at its beginning, to read and to seek, and one that is called with a line about each record that is damaged and
left out, or about what cannot be read behind some place. Only what is a mistake of the whole run raises UserError.
"""

from collections.abc import Callable, Iterator
import functools
import os
import re
from typing import BinaryIO, cast, Protocol

from gpt4x import storage
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import UserError
from gpt4x.preparation.document import Document
from gpt4x.preparation.sources import json_lines, media_folder, parquet, warc, whole_files, wikipedia
from gpt4x.preparation.sources.opening import buffered


def read(path: str, name: str, bad: Callable[[str], None], text_field: str = "text") -> Iterator[Document]:
  """The documents of a file; of an image or a sound, its caption, and of a `metadata.jsonl`, those of its folder."""
  if media_folder.medium_of(path):
    return media_folder.read_file(path, name, bad)
  if os.path.basename(path) == media_folder.METADATA:
    return media_folder.read(os.path.dirname(path), bad, os.path.dirname(name))
  opened = lambda: cast(BinaryIO, storage.path(path).open("rb"))
  return of(path, opened, text_field)(name, opened, bad)


class Read(Protocol):
  """Reads the documents of one file."""

  def __call__(self, name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[Document]:
    ...


_PACKED = re.compile(r"(?:\.(?:gz|zst|zstd|bz2|xz))*$")
_HEAD = 1 << 12  # Bytes that tell what a file holds.


def of(path: str, opened: Callable[[], BinaryIO], text_field: str = "text") -> Read:
  """What reads a file. `text_field` names the field or the column that has the text, in JSON lines and Parquet.

  Raises:
    UserError: the file is of none of the formats, by its name and by its content.
  """
  by_suffix: dict[str, Read] = {
      "warc": warc.read, "wet": warc.read, "txt": whole_files.read_text, "text": whole_files.read_text,
      "html": whole_files.read_html, "htm": whole_files.read_html, "xhtml": whole_files.read_html,
      "jsonl": functools.partial(json_lines.read, field=text_field),
      "parquet": functools.partial(parquet.read, column=text_field)}
  by_suffix |= dict.fromkeys(("ndjson", "jsonlines", "json"), by_suffix["jsonl"])
  suffix = _PACKED.sub("", path.lower()).rpartition(".")[2]
  if suffix in by_suffix:
    return by_suffix[suffix]
  head = _head(opened)
  if suffix == "xml" and not head:  # Damaged, which its reader says.
    return wikipedia.read
  for mark, name in _MARKS:
    if mark.match(head):
      return wikipedia.read if name == "wiki" else by_suffix[name]
  raise UserError(f"{shown(path)} is in no format that is known here: give WARC, WET, JSON lines, Parquet, HTML, a"
                  " Wikipedia dump (XML) or plain text, named .warc, .wet, .jsonl, .parquet, .html, .xml or .txt,"
                  " compressed (.gz, .zst, .bz2, .xz) or not")


_MARKS = tuple((re.compile(mark, re.IGNORECASE), name) for mark, name in (
    (rb"WARC/\d", "warc"), (rb"PAR1", "parquet"), (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<mediawiki\b", "wiki"),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", "html"),
    (rb"(?:\xef\xbb\xbf)?\s*\{\s*\"", "jsonl")))


def _head(opened: Callable[[], BinaryIO]) -> bytes:
  try:
    with opened() as file:
      return unpacked(buffered(file)).read(_HEAD)
  except READ_ERRORS:
    return b""
