"""Bytes to text: by what the bytes are, rather than by what somebody says they are."""

import codecs
import re

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ESCAPED = {"iso2022_jp", "iso2022_kr", "hz"}  # Seven bits, so that UTF-8 reads them too, as nonsense.
# What is declared as the left is written as the right, which has more signs (the WHATWG's Encoding Standard).
_WIDER = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
          "shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}
_META = re.compile(rb"<(?:meta[^>]*?\bcharset|\?xml[^>]*?\bencoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_WITHIN = 4096  # Bytes. Browsers search 1,024, but pages were saved with more ahead.


def decoded(data: bytes, charset: str | None = None) -> str:
  """The text of bytes, with "\\n" as its only line end.

  A byte-order mark counts first, then that the bytes are UTF-8, which others hardly ever are by chance; then the
  charset that was declared, outside or in the bytes as HTML and XML do. If it does not fit, Windows-1252 does.
  """
  return lines_unified(_decoded(data, charset))


def lines_unified(text: str) -> str:
  """The text with "\\n" in place of "\\r\\n" and "\\r"."""
  return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decoded(data: bytes, charset: str | None) -> str:
  for mark, name in _BOMS:
    if data.startswith(mark):
      return data[len(mark):].decode(name, "replace")
  given = [charset] if charset else []
  if inside := _META.search(data, 0, _META_WITHIN):
    given.append(inside[1].decode())
  declared = [name for name in map(_known, given) if name]
  escaped = [name for name in declared if name in _ESCAPED and (b"\x1b" in data or b"~{" in data)]
  for name in (*escaped, "utf-8", *declared):
    try:
      return data.decode(name)
    except UnicodeError:
      continue
  try:
    text = data.decode(declared[0] if declared else "utf-8", "replace")
  except UnicodeError:  # Some of Python's codecs refuse to replace.
    text = ""
  # A few bytes that do not fit, among others that do, are no reason to read all as another charset.
  unfit, special = text.count("\ufffd"), len(text) - len(text.encode("ascii", "ignore"))
  return text if unfit * 4 < special else data.decode("cp1252", "replace")


def _known(charset: str) -> str | None:
  """Python's name of a charset for texts, wide enough for what is declared as it; None if there is none."""
  try:
    found = codecs.lookup(charset.strip(" \"'"))
    "".encode(found.name)  # "rot13" and "hex" are codecs, but of no text.
  except (LookupError, ValueError):
    return None
  return _WIDER.get(found.name, found.name)
