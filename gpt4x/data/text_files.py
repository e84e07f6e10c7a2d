"""The documents of a text file, by its content: plain text, JSON lines or whole JSON, packed or not."""

import bz2
from collections.abc import Callable, Iterable, Iterator
import gzip
import io
import itertools
import json
import lzma
import os
import pathlib
import re
from typing import Any, BinaryIO
import zlib

from gpt4x.errors import UserError

Document = tuple[str, str]  # Name and text.

_PACKED_SUFFIXES = {".gz", ".zst", ".zstd", ".bz2", ".xz"}
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".jsonlines", ".json"}
_HEAD = 1 << 16  # Bytes that tell what a file holds.
_FIRST_LINES = 10  # If one of these is a record in a file that begins with a brace, the file is JSON lines.
_BOM = b"\xef\xbb\xbf"
READ_ERRORS = OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError


def refuse(message: str) -> None:
  """What `read_documents` does with a bad record unless told otherwise."""
  raise UserError(f"{message}, or set LocalText.on_bad_record = 'skip'")


class WrongField(ValueError):
  """What is wrong with a record beside its text, in words that need no others."""


def text_of(record: Any) -> str:
  """The text of a record; a ValueError without."""
  if not isinstance(record, dict):
    raise ValueError(f"but of type {type(record).__name__}")
  if "text" not in record:
    raise ValueError(f"it has {', '.join(repr(name[:30]) for name in list(record)[:5]) or 'nothing'}")
  if not isinstance(record["text"], str):
    raise ValueError(f"its \"text\" is of type {type(record['text']).__name__}")
  record["text"].encode()  # JSON can spell half a surrogate pair, which is no text.
  return record["text"]


def read_documents(path: str, bad: Callable[[str], None] = refuse, opened: io.BufferedReader | None = None,
                   made_of: Callable[[Any], str] = text_of) -> Iterator[Document]:
  """Yields (name, text) of each document in a file that is not blank.

  `bad` is called with a line that says what is wrong with a record, or with the file; what can be read goes on.
  `opened` is what the path stands for, where that is no file of this machine. `made_of` gives the text of a record.
  """
  try:
    with opened or open(path, "rb") as file:
      yield from ((name, text) for name, text in _documents(unpacked(file), path, bad, made_of) if text.strip())
  except READ_ERRORS as error:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__  # The system's has the path inside.
    bad(f"cannot read {shown(path)} ({reason}): mend it")


def shown(path: str) -> str:
  """A path as a message may show it: some names are not UTF-8, and some have a line end."""
  text = os.fsencode(path).decode("utf-8", "backslashreplace")
  return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def unpacked(file: io.BufferedReader) -> BinaryIO:
  head = file.peek(32)
  if head.startswith(b"\x1f\x8b\x08"):
    return io.BufferedReader(gzip.GzipFile(fileobj=file), _HEAD)
  if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
    return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), _HEAD)
  if head.startswith(b"\xfd7zXZ\0"):
    return io.BufferedReader(_Streams(file, lzma.LZMADecompressor), _HEAD)
  if re.match(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", head):
    import pyarrow  # Takes a tenth of a second.
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd"), _HEAD)
  return file


class _Streams(io.RawIOBase):
  """Streams of bzip2 or xz, one after another, of which `bz2.open` and `lzma.open` take a damaged one for the end."""

  def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]):
    self._file, self._decompressor, self._stream = file, decompressor, decompressor()

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    found, data = b"", b""
    while not found:
      if self._stream.eof:
        data = self._stream.unused_data.lstrip(b"\0") or self._file.read(_HEAD).lstrip(b"\0")  # Zeros may lie between.
        if not data:
          return 0
        self._stream = self._decompressor()
      elif self._stream.needs_input and not (data := self._file.read(_HEAD)):
        raise EOFError("it ends too early")
      found = self._stream.decompress(data, len(buffer))
      data = b""
    buffer[:len(found)] = found
    return len(found)


def _documents(file: BinaryIO, path: str, bad: Callable[[str], None], made_of: Callable[[Any], str]
               ) -> Iterator[Document]:
  head = file.read(_HEAD)
  head += file.readline()  # Ends where a line does.
  if kind := _not_text(head):
    bad(f"{shown(path)} is {kind}: make it UTF-8 text or JSON lines, or take it out of LocalText.files")
    return
  lines = itertools.chain(io.BytesIO(head), file)
  first_lines = itertools.islice((line for line in io.BytesIO(head.removeprefix(_BOM)) if line.strip()), _FIRST_LINES)
  begins = head.removeprefix(_BOM).lstrip()[:1]
  if _named_json(path):
    if begins == b"[" or not _parses(next(first_lines, b"{}")) and _begins_json(head):
      yield from _read_whole(head + file.read(), path, bad, made_of)
    else:
      yield from _read_lines(lines, path, bad, made_of)
  elif begins == b"{" and any(_parses(line, text_of) for line in first_lines):
    yield from _read_lines(lines, path, bad, made_of)
  else:
    try:
      text = _decode(head + file.read()).removeprefix("\ufeff")
    except ValueError as error:
      bad(f"{shown(path)} is {error}: convert it or take it out of LocalText.files")
    else:
      yield path, text


def _not_text(head: bytes) -> str | None:
  """What a file is that could pass for text, or that users take for text."""
  if head.startswith((b"\xff\xfe", b"\xfe\xff")):
    return "UTF-16"
  if head.startswith(b"PK\x03\x04"):
    return "a zip archive"
  return "a tar archive" if head[257:262] == b"ustar" else None


def _named_json(path: str) -> bool:
  suffixes = [suffix.lower() for suffix in pathlib.PurePath(path).suffixes]
  while suffixes and suffixes[-1] in _PACKED_SUFFIXES:
    suffixes.pop()
  return bool(suffixes) and suffixes[-1] in _JSON_SUFFIXES


def _parses(line: bytes, check: Callable[[Any], Any] = bool) -> bool:
  try:
    check(json.loads(line))
  except (ValueError, RecursionError):
    return False
  return True


def _begins_json(head: bytes) -> bool:
  """Whether whole lines are JSON, or the beginning of it."""
  try:
    text = head.decode("utf-8-sig").strip()
    json.JSONDecoder().raw_decode(text)
  except json.JSONDecodeError as error:
    return error.pos >= len(text)  # No string goes over a line end, so what is cut off misses something at its end.
  except (ValueError, RecursionError):
    return False
  return True


def _read_lines(lines: Iterable[bytes], path: str, bad: Callable[[str], None], made_of: Callable[[Any], str]
                ) -> Iterator[Document]:
  offset = 0
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        text = made_of(json.loads(_decode(line.removeprefix(_BOM), offset)))
      except _ERRORS as error:
        bad(f"{shown(path)}:{number}: {_wrong(error)}: correct it")
      else:
        yield f"{path}:{number}", text
    offset += len(line)


def _read_whole(data: bytes, path: str, bad: Callable[[str], None], made_of: Callable[[Any], str]
                ) -> Iterator[Document]:
  """Objects one after another, or lists of them, over any number of lines."""
  number, position, decoder, blanks = 0, 0, json.JSONDecoder(), re.compile(r"\s*")
  try:
    text = _decode(data.removeprefix(_BOM))
    while (position := blanks.match(text, position).end()) < len(text):  # type: ignore[union-attr]
      value, position = decoder.raw_decode(text, position)
      for item in value if isinstance(value, list) else [value]:
        try:
          document = made_of(item)
        except ValueError as error:
          bad(f"{shown(path)}[{number}]: {_wrong(error)}: correct it")
        else:
          yield f"{path}[{number}]", document
        number += 1
  except _ERRORS as error:
    place = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
    bad(f"{shown(path)}{place}: neither JSON lines nor whole JSON ({_reason(error)}): correct it")


_RECORD = 'not a JSON object with a "text", such as {"text": "..."}'
_ERRORS = ValueError, RecursionError  # Of JSON and UTF-8.


def _decode(data: bytes, offset: int = 0) -> str:
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 at byte {offset + error.start}") from error


def _wrong(error: Exception) -> str:
  return str(error) if isinstance(error, WrongField) else f"{_RECORD} ({_reason(error)})"


def _reason(error: Exception) -> str:
  if isinstance(error, json.JSONDecodeError):
    return f"{error.msg} at column {error.colno}"
  if isinstance(error, UnicodeEncodeError):
    return "half a surrogate pair"
  return "too many levels" if isinstance(error, RecursionError) else str(error)
