"""Where values stand in a text: candidates in linear time, their borders, and which of two that overlap is kept."""

import bisect
from collections.abc import Iterable, Iterator, Mapping
import functools
import re
from typing import Any, NamedTuple

from gpt4x.preparation import libraries

_SURROGATES = re.compile("[\ud800-\udfff]")
# From Thai on, scripts stand without spaces or join their particles to numbers: 卡号4111111111111111。
_SCRIPTS_WITHOUT_BORDERS = "\u0e00"


class Span(NamedTuple):
  """A value in a text.

  Attributes:
    start: its first character.
    end: the one behind its last.
    kind: "email", "phone", "card", "iban", "ssn", "ip" or "secret".
  """

  start: int
  end: int
  kind: str


@functools.cache
def library(module: str, package: str) -> Any:
  """An optional library; a UserError says what to install where it is missing."""
  return libraries.library(module, "PersonalData", package)


@functools.cache
def _compiled(pattern: str) -> Any:
  return library("re2", "google-re2").compile(pattern)


def matches(pattern: str, text: str) -> Iterator[Any]:
  """The matches of a pattern in RE2's syntax, from left to right, with places in characters; in linear time.

  RE2 (Cox, "Regular Expression Matching in the Wild", 2010) has no backtracking, and so no look-around.
  """
  # RE2 reads UTF-8, which has no half surrogate pairs; U+FFFD in their place leaves all others where they are.
  return _compiled(pattern).finditer(text if text.isascii() else _SURROGATES.sub("\ufffd", text))


def spans(pattern: str, text: str, kind: str, group: int = 0) -> Iterator[Span]:
  """Where a group of the pattern's matches stands."""
  for match in matches(pattern, text):
    start, end = match.span(group)
    yield Span(start, end, kind)


def stands_alone(text: str, start: int, end: int, joints: str = "") -> bool:
  """Whether a value is no part of a longer word, nor of a longer number that one of `joints` continues."""
  before, after = text[max(0, start - 2):start], text[end:end + 2]
  return not (before and (_in_word(before[-1]) or before[-1] in joints and before[0].isdigit() and len(before) == 2)
              or after and (_in_word(after[0]) or after[0] in joints and after[1:].isdigit()))


def _in_word(character: str) -> bool:
  return character == "_" or character.isalnum() and character < _SCRIPTS_WITHOUT_BORDERS


def without_overlaps(spans: Iterable[Span], priorities: Mapping[str, int]) -> list[Span]:
  """The spans from left to right: of those that overlap the kind with the lowest number, then the longest."""
  starts, kept = list[int](), list[Span]()
  for span in sorted(spans, key=lambda span: (priorities[span.kind], span.start - span.end, span.start)):
    place = bisect.bisect_left(starts, span.end)
    if not (place and kept[place - 1].end > span.start):
      starts.insert(place, span.start)
      kept.insert(place, span)
  return kept
