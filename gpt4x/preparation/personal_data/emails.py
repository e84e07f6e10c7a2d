"""Addresses of e-mail (RFC 5321), in letters of Latin, Greek and Cyrillic too (RFC 6531)."""

from collections.abc import Iterator
import re

from gpt4x.preparation.personal_data.spans import matches, Span, stands_alone

# With marks of accents. No Chinese or Thai, which stand beside an address without a space.
_LETTERS = r"A-Za-z\x{c0}-\x{52f}\x{1e00}-\x{1fff}"
_PATTERN = (rf"[{_LETTERS}0-9._%+'\-]+@(?:[{_LETTERS}0-9](?:[{_LETTERS}0-9\-]*[{_LETTERS}0-9])?\.)+"
            rf"(?:xn--[a-z0-9\-]+|[{_LETTERS}]+)")
_LONGEST_LOCAL, _LONGEST = 64, 254  # Octets, by RFC 5321.
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "css", "js", "pdf", "html"}  # As in logo@2x.png.
_SERVICES = {"git", "hg"}  # Users of programs, as in git@github.com:someone/something.


def find(text: str) -> Iterator[Span]:
  """Addresses; not the user and password of a URL, nor names of files and of repositories."""
  if "@" not in text:
    return
  for match in matches(_PATTERN, text):
    start, end = match.span()
    local, _, domain = text[start:end].partition("@")
    bare = local.lstrip("._%+'-")
    start += len(local) - len(bare)
    if (0 < len(bare) <= _LONGEST_LOCAL and end - start <= _LONGEST and bare not in _SERVICES
        and len(last := domain.rpartition(".")[2]) > 1 and last.lower() not in _FILES and stands_alone(text, start, end)
        and text[start - 1:start] != "@" and text[end:end + 1] != "@" and not _in_url(text, start, end)):
      yield Span(start, end, "email")


def _in_url(text: str, start: int, end: int) -> bool:
  """Whether what stands before "@" is the user of a URL, or its password; the scheme may be missing."""
  if text[start - 1:start] == ":" and re.match(r":\d", text[end:end + 2]):  # user:password@host:port.
    return True
  scheme, found, authority = text[max(0, start - 100):start].rpartition("://")
  return bool(found) and scheme[-1:].isalnum() and not any(one in "/?#\"'<>" or one.isspace() for one in authority)
