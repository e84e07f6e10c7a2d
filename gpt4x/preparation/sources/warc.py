"""Web archives: the pages of WARC files, and the texts of WET files (ISO 28500).

FastWARC reads a file fast while it is whole. It stops without a word where data end too early, and for good where they
are damaged. So every record waits for the next one, which shows that it was whole. From the last good place on,
`_slowly` reads record by record, goes on behind damage, and says what is lost.
"""

from collections.abc import Callable, Generator, Iterator
import io
import re
from typing import Any, BinaryIO
import zlib

from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import one_line
from gpt4x.preparation.decoding import lines_unified
from gpt4x.preparation.document import Document
from gpt4x.preparation.libraries import library
from gpt4x.preparation.sources.gzip_members import GzipMembers, MAGIC
from gpt4x.preparation.sources.opening import buffered

_PAGES = {"text/html", "application/xhtml+xml", "text/plain"}
_LONGEST_HEADER = 1 << 16
_LARGEST = 1 << 26  # Bytes of a page: a small record can decompress to anything.
_CHUNK = 1 << 16
_HEADER = re.compile(rb"WARC/\d+\.\d+\r?\n(?:[^\r\n][^\n]*\n)+\r?\n")
_NEXT = re.compile(rb"\n(?=WARC/\d+\.\d+\r?\n(?i:warc|content)-[A-Za-z-]+:)")
_BLANK = b"\r\n\r\n", b"\n\n"  # Ends a record; what comes then may be damaged on its own account.
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_LOOKS_LIKE_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"(?:\r?\n)?([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


def read(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[Document]:
  """Yields the pages of a web archive, compressed or not, as NAME:RECORD, with "url", "date" and "content_type".

  Responses with status 200 that are HTML or plain text have `content`, what the server sent of it as "charset", and no
  chunks or compression any more. Conversions (WET) have `text`. Records count from 1, those that are left out as well.

  Args:
    name: the file's, for the documents' names.
    opened: opens the file at its beginning, as one that can seek.
    bad: called with a line about each record that is damaged, which is left out whole, and where data end too early.
  """
  with opened() as file:
    position, number, known = yield from _quickly(name, file, bad)
  with opened() as file:
    if not file.read(1):
      bad(f"{shown(name)} is empty (0 bytes): copy it again, or take it out")
    file.seek(position)
    try:
      for count, record in _slowly(name, number, file, bad):
        number = count
        if number > known:
          yield from _told(_document(record, f"{name}:{number}"), f"{shown(name)}:{number}", bad)
    except READ_ERRORS as error:
      bad(f"{shown(name)} cannot be read behind record {number} ({one_line(error)}): copy it again")


def _quickly(name: str, file: BinaryIO, bad: Callable[[str], None]
             ) -> Generator[Document, None, tuple[int, int, int]]:
  """Yields documents while all is well.

  Returns the place and the number of a record from which a file can be read on, and the number of the last record that
  was whole, which may be the same or one behind it.
  """
  warc = library("fastwarc.warc", "a web archive")
  watched = _Watched(file)
  safe, last, known = (0, 1), (0, 1), 0
  held = None
  if watched.kind in (MAGIC, b"WARC"):
    try:
      for number, record in enumerate(warc.ArchiveIterator(watched, parse_http=False), 1):
        place = record.stream_pos
        # A member with several records: FastWARC gives the second one the place where it has read to, often the next
        # member's. So a place is known to be a record's when the next record has another.
        if number > 1 and place == last[0] or watched.kind == MAGIC and not watched.member_begins(place):
          break
        yield from _told(held, f"{shown(name)}:{known + 1}", bad)
        safe, last, known = last, (place, number), number - 1
        held = _document(record, f"{name}:{number}")
    except OSError:
      pass  # What is wrong will be told by the one that goes on.
  return *safe, known


class _Watched:
  """A file whose last chunks are remembered."""

  def __init__(self, file: BinaryIO):
    self._file, self._chunks = file, ((0, b""), (0, b""))
    head = file.read(4)
    file.seek(0)
    self.kind = MAGIC if head.startswith(MAGIC) else head

  def read(self, size: int) -> bytes:
    place, data = self._chunks[1]
    chunk = self._file.read(size)
    if chunk:
      self._chunks = self._chunks[1], (place + len(data), chunk)
    return chunk

  def seek(self, offset: int, whence: int = 0) -> int:
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    return self._file.tell()

  def member_begins(self, place: int) -> bool:
    for start, chunk in self._chunks:
      if start <= place < start + len(chunk):
        return MAGIC.startswith(chunk[place - start:place - start + len(MAGIC)])
    return False


def _told(found: Document | str | None, place: str, bad: Callable[[str], None]) -> Iterator[Document]:
  if isinstance(found, str):
    bad(f"{place}: {found}")
  elif found:
    yield found


def _slowly(name: str, number: int, file: BinaryIO, bad: Callable[[str], None]) -> Iterator[tuple[int, Any]]:
  """(number, record) of each whole record from here on; `bad` is called about the others, which count as well."""
  record_of = library("fastwarc.warc", "a web archive").WarcRecord.from_reader
  causes = list[str]()
  packed = buffered(file)
  stream = io.BufferedReader(GzipMembers(packed, causes.append), _CHUNK) if packed.peek(3)[:3] == MAGIC else (
      unpacked(packed))
  data, ended = bytearray(), False

  def fill(size: int) -> None:
    nonlocal ended
    while len(data) < size and not ended:
      chunk = stream.read(max(_CHUNK, size - len(data)))
      ended = not chunk
      data.extend(chunk)

  while True:
    fill(_LONGEST_HEADER)
    blank = len(data) - len(data.lstrip(b"\r\n"))
    del data[:blank]
    fill(_LONGEST_HEADER)
    if not data:
      if causes:
        bad(f"{shown(name)}: {', '.join(causes)}, before record {number}: copy the file again")
      return
    header = _HEADER.match(data)
    length = header and _LENGTH.search(header[0])
    if not header:
      wrong = "no WARC header where a record must begin"
    elif not length:
      wrong = "a record without a Content-Length"
    else:
      end = header.end() + int(length[1])
      # A length may be wrong by any number of digits: what is not there is not waited for all at once.
      while len(data) < end + 16 and not ended:
        fill(min(end + 16, len(data) + (1 << 24)))
      behind = data[end:end + 16]
      if len(data) < end:
        wrong = f"a record that ends {end - len(data):,} bytes before its Content-Length"
      elif not behind.startswith(_BLANK) and not b"WARC/".startswith(behind.lstrip(b"\r\n")[:5]):
        wrong = f"a record behind whose Content-Length ({int(length[1]):,}) none begins"
      else:
        whole = bytes(data[:end])
        yield number, record_of(io.BytesIO(whole), quirks_mode=b"\r\n" not in header[0])
        del data[:end]
        number += 1
        continue
    bad(f"{shown(name)}:{number}: {', '.join([wrong, *causes])}: copy the file again, or it goes without")
    causes.clear()
    number += 1
    start = 1
    while not (found := _NEXT.search(data, start - 1)) and not ended:
      start = max(1, len(data) - 256)  # Where a header may have begun.
      fill(len(data) + _CHUNK)
    del data[:found.end() if found else len(data)]


def _document(record: Any, name: str) -> Document | str | None:
  """The document of a record; None if it holds no page; what is wrong with it if that is damaged."""
  kind = str(record.record_type)
  if kind == "conversion":
    try:
      text = record.reader.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
      return f"a conversion that is not UTF-8 at byte {error.start}: it goes without"
    return Document(name, lines_unified(text), fields=_fields(record, record.headers.get("Content-Type")))
  if kind != "response" or not record.is_http:
    return None
  try:
    record.parse_http(quirks_mode=True)
  except OSError as error:
    return f"an HTTP header that cannot be read ({one_line(error)}): it goes without"
  http = record.http_headers
  if http.status_code != 200:
    return None if http.status_code else "a response without an HTTP status: it goes without"
  content_type = (record.http_content_type or record.headers.get("WARC-Identified-Payload-Type") or "").lower()
  if content_type and content_type not in _PAGES:
    return None
  try:
    content = _decoded(record.reader.read(), http)
  except ValueError as error:
    return f"{error}: it goes without"
  if not content_type:
    if not _LOOKS_LIKE_HTML.match(content):
      return None
    content_type = "text/html"
  charset = {"charset": record.http_charset.strip("\"' ").lower()} if record.http_charset else {}
  return Document(name, content=content, fields=_fields(record, content_type) | charset)


def _fields(record: Any, content_type: str | None) -> dict[str, Any]:
  known = {"url": (record.headers.get("WARC-Target-URI") or "").strip("<>"),  # Some writers put it into brackets.
           "date": record.headers.get("WARC-Date"), "content_type": (content_type or "").partition(";")[0].strip()}
  return {name: value for name, value in known.items() if value}


def _decoded(body: bytes, http: Any) -> bytes:
  """A body without the chunks and the compression that its header declares, if they are there; else a ValueError.

  Crawlers undo either and often leave the header as it was.
  """
  if "chunked" in (http.get("Transfer-Encoding") or "").lower():
    body = _joined(body)
  for name in reversed((http.get("Content-Encoding") or "").lower().split(",")):
    if decode := _DECODERS.get(name.strip()):
      try:
        found = decode(body)
      except (OSError, zlib.error) as error:
        if not _is_text(body):
          raise ValueError(f"a page that cannot be decompressed ({name.strip()}: {one_line(error)})") from error
        continue
      if len(found) > _LARGEST:
        raise ValueError(f"a page of more than {_LARGEST:,} bytes, decompressed")
      body = found
  return body


def _is_text(body: bytes) -> bool:
  """Whether bytes may be a text as they are: it has no control characters, and compressed data of any length have."""
  return not any(byte < 9 for byte in body[:4096])


def _joined(body: bytes) -> bytes:
  """What the chunks of a body hold; the body itself if it has none."""
  parts, place = list[bytes](), 0
  while found := _CHUNK_SIZE.match(body, place):
    size = int(found[1], 16)
    if not size:
      return b"".join(parts)
    if not parts and found.end() + size > len(body):
      break
    place = found.end() + size
    parts.append(body[found.end():place])
  return b"".join(parts) or body


def _inflated(window: int) -> Callable[[bytes], bytes]:
  return lambda body: zlib.decompressobj(window).decompress(body, _LARGEST + 1)


def _deflated(body: bytes) -> bytes:
  try:
    return _inflated(zlib.MAX_WBITS)(body)
  except zlib.error:
    return _inflated(-zlib.MAX_WBITS)(body)  # Some servers leave zlib's header out.


def _by_fastwarc(reader: str) -> Callable[[bytes], bytes]:
  return lambda body: getattr(library("fastwarc.stream_io", "a web archive"), reader)(io.BytesIO(body)).read(
      _LARGEST + 1)


_DECODERS = {"gzip": _inflated(31), "x-gzip": _inflated(31), "deflate": _deflated, "br": _by_fastwarc("BrotliReader"),
             "zstd": _by_fastwarc("ZstdReader")}
