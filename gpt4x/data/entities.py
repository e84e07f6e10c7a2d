"""Names in texts: where one of many stands, the longest first, found by a trie of words."""

from collections.abc import Iterable
import re
from typing import Any

from gpt4x.data.scripts import MARKS, UNSPACED

# A character of a script that has no blanks between its words; a word; a sign by itself. Marks are their letter's.
_WORDS = re.compile(rf"[{UNSPACED}][{MARKS}]*|(?:(?![{UNSPACED}])[\w{MARKS}])+|[^\w\s]")
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
