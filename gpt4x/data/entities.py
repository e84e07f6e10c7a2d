"""Names in texts: where one of many stands, the longest first, found by a trie of words; or where a record says."""

import bisect
from collections.abc import Iterable, Sequence
import dataclasses
import re
from typing import Any, Literal, SupportsIndex

from gpt4x.data.scripts import WORD
from gpt4x.data.text_files import text_of, WrongField

Spans = Sequence[tuple[int, int]]  # (start, stop), from left to right, without overlaps.
Offsets = Literal["characters", "bytes"]

_WORDS = re.compile(rf"{WORD}|[^\w\s]")  # Or a sign by itself.
_END = ""  # No word: what marks the end of a name in the trie.


class Matcher:
  """Finds names in texts, at word boundaries, of those that overlap the first, of those that begin alike the longest.

  One space is as good as another, and as several. A text of n words takes n steps, times the words of a name at most.
  """

  def __init__(self, names: Iterable[str], fold_case: bool = False):
    """Takes the names; with `fold_case`, "apple" is also found as "Apple" and "APPLE"."""
    self._fold = str.casefold if fold_case else lambda word: word
    self._trie: dict[str, Any] = {}
    for name in names:
      words = self._words(name)
      if words:
        node = self._trie
        for word, _, _ in words:
          node = node.setdefault(word, {})
        node[_END] = {}

  def spans(self, text: str) -> list[tuple[int, int]]:
    """(start, stop) of each name in a text, in characters, from left to right."""
    words, found, place = self._words(text), list[tuple[int, int]](), 0
    while place < len(words):
      last = self._longest(words, place)
      if last is None:
        place += 1
      else:
        found.append((words[place][1], words[last][2]))
        place = last + 1
    return found

  def _longest(self, words: list[tuple[str, int, int]], place: int) -> int | None:
    """The last word of the longest name that begins at one; None if none does."""
    node, last = self._trie.get(words[place][0].removeprefix(" ")), None
    while node is not None:
      if _END in node:
        last = place
      place += 1
      node = node.get(words[place][0]) if place < len(words) else None
    return last

  def _words(self, text: str) -> list[tuple[str, int, int]]:
    """(word, start, stop) of a text or a name, the word behind a space where one stands before it; not the first."""
    found, stop = list[tuple[str, int, int]](), 0
    for match in _WORDS.finditer(text):
      space = " " if found and match.start() > stop else ""
      found.append((space + self._fold(match.group()), match.start(), match.end()))
      stop = match.end()
    return found


class Annotated(str):
  """A text that knows the (start, stop) of its entities, in characters. A part of it has those that are whole in it."""

  spans: Spans = ()

  @classmethod
  def of(cls, text: str, spans: Spans) -> "Annotated":
    found = cls(text)
    found.spans = tuple(spans)
    return found

  def __getitem__(self, place: SupportsIndex | slice) -> str:
    part = super().__getitem__(place)
    if not isinstance(place, slice):
      return part
    first, last, step = place.indices(len(self))
    inside = [(start - first, stop - first) for start, stop in self.spans if start >= first and stop <= last]
    return Annotated.of(part, inside if step == 1 else ())


@dataclasses.dataclass(frozen=True)
class Annotations:
  """What makes an annotated text of a record.

  Attributes:
    field: the record's list of entities, each [start, stop] or {"start": start, "end": stop}; what else it has, such as
      a label, is passed over.
    offsets: whether these count characters, or bytes of UTF-8.
  """

  field: str
  offsets: Offsets = "characters"

  def __call__(self, record: Any) -> Annotated:
    """The text of a record with its entities; a ValueError that says what is wrong with either."""
    text = text_of(record)
    if not isinstance(record.get(self.field), list):
      raise WrongField(f"the record has no list {self.field!r} of entities, such as [[0, 5]]")
    places = _places(text) if self.offsets == "bytes" else range(len(text) + 1)
    return Annotated.of(text, apart(self._span(one, places) for one in record[self.field]))

  def _span(self, entity: Any, places: Sequence[int | None]) -> tuple[int, int]:
    """(start, stop) in characters; `places` has that of each offset, None where it is inside a character."""
    ends = [entity.get("start"), entity.get("end")] if isinstance(entity, dict) else entity
    if isinstance(ends, list) and len(ends) >= 2 and all(type(end) is int for end in ends[:2]):
      start, stop = (places[end] if 0 <= end < len(places) else None for end in ends[:2])
      if start is not None and stop is not None and start < stop:
        return start, stop
    shown = repr(entity)
    raise WrongField(f"its {self.field!r} has {shown[:60]}, which is no [start, stop] of a text of"
                     f" {len(places) - 1:,} {self.offsets}")


def apart(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
  """Spans from left to right: of those that overlap the first, of those that begin alike the longest."""
  found = list[tuple[int, int]]()
  for start, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
    if not found or start >= found[-1][1]:
      found.append((start, stop))
  return found


def joined(spans: Spans, others: Spans) -> list[tuple[int, int]]:
  """Spans, and of others those that overlap none of them, from left to right."""
  starts = [start for start, _ in spans]

  def free(start: int, stop: int) -> bool:
    before = bisect.bisect_left(starts, stop)  # Of the spans that begin before the stop, the last one ends last.
    return not before or spans[before - 1][1] <= start

  return sorted([*spans, *(other for other in others if free(*other))])


def _places(text: str) -> list[int | None]:
  """The character that begins at each byte of a text's UTF-8, and the end; None inside of one."""
  found = list[int | None]()
  for place, character in enumerate(text):
    found += [place, *[None] * (len(character.encode()) - 1)]
  return [*found, len(text)]
