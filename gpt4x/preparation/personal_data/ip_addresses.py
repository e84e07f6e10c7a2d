"""Public addresses of the internet protocol, versions 4 and 6."""

from collections.abc import Iterator
import ipaddress
import re

from gpt4x.preparation.personal_data.spans import matches, Span, stands_alone

_RUNS_4 = r"[0-9]+(?:\.[0-9]+){3,}"  # The whole of a run: five numbers are no address.
_FOUR = re.compile(r"(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})")
_RUNS_6 = r"[0-9A-Fa-f:]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*"
_VERSIONS = re.compile(r"(?<![a-z])(?:version|ver|v|release|rel|build|revision|rev|sections?|chapter|clause|firmware"
                       r"|oid)[\s:=#\"'.]{0,4}$|\w[/~^]$|[<>=~^!]=\s?$", re.IGNORECASE)


def find(text: str) -> Iterator[Span]:
  """Addresses of machines that the whole internet reaches; not private ones, those of documentation, and versions.

  Four numbers below ten are taken for a version or a section, as most of them are; the addresses among them, such as
  8.8.8.8, are services rather than persons.
  """
  for match in matches(_RUNS_4, text):
    start, end = match.span()
    if end - start <= 15 and _FOUR.fullmatch(found := text[start:end]) and end - start > len("1.1.1.1"):
      if _is_alone(text, start, end) and not _VERSIONS.search(text[max(0, start - 16):start]) and _is_public(found):
        yield Span(start, end, "ip")
  if "::" in text or text.count(":") > 6:
    for match in matches(_RUNS_6, text):
      start, end = match.span()
      if end - start > 45:
        continue
      while text[end - 1] == ":" and text[end - 2:end] != "::":  # The sentence's.
        end -= 1
      if _is_alone(text, start, end) and _is_public_6(text[start:end]):
        yield Span(start, end, "ip")


def _is_alone(text: str, start: int, end: int) -> bool:
  """Whether no word goes on, not by a full stop, a hyphen or another colon either: foo-10.20.30.40.tar.gz is a file."""
  before, after = text[max(0, start - 2):start], text[end:end + 2]
  joined = before[-1:] in ("-", ".") and before[:-1].isalnum() or after[:1] in ("-", ".") and after[1:].isalnum()
  return stands_alone(text, start, end, ":" if ":" in text[start:end] else "") and not joined


def _is_public(found: str) -> bool:
  try:
    address = ipaddress.ip_address(found)
  except ValueError:
    return False
  return address.is_global and not address.is_multicast


def _is_public_6(found: str) -> bool:
  """Whether it is public, and no slice (`1::2`), scope (`Bad::Face`), time, or list of octets (`01:1b:...`)."""
  groups = found.split(":")
  if "::" in found:
    plausible = len(groups[0]) == 4 and groups[0][0] in "23"  # 2000::/3, which is all that is given out.
  else:
    plausible = max(map(len, groups)) > 2
  return plausible and _is_public(found)
