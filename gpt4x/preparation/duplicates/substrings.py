"""Runs of words that come up again."""

from collections.abc import Sequence
import dataclasses
import re

import gin
import numpy as np

from gpt4x.data.scripts import UNSPACED
from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing
from gpt4x.preparation.duplicates.join import Join, Match

_ASCII_WORD = re.compile(r"\S+")
_WORD = re.compile(rf"[{UNSPACED}][^\w\s]*|[^\s{UNSPACED}]+")  # As in `words.split`.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RepeatedSubstrings(Join):
  """Takes out what stands in runs of `words` words that came up before (arXiv:2107.06499); drops what has none left.

  The first copy stays, words are not cut in two, and no run goes over the end of a document.

  Attributes:
    words: how long a run is; blanks part words, and a character of a script without blanks is one.
  """

  words: int = 50

  def __post_init__(self):
    require(self, "at least 2", lambda value: value >= 2, "words")

  def keys(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
    words = _word(document.text).findall(document.text)
    if len(words) < self.words:
      return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    keys = hashing.runs(hashing.of_words(words), self.words)
    return keys, np.arange(len(keys), dtype=np.uint32)

  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    spans = [found.span() for found in _word(document.text).finditer(document.text)]
    repeated = np.zeros(len(spans), bool)
    for match in matches:
      start = max(match.place, match.other_place + self.words) if match.own else match.place
      repeated[start:match.place + self.words] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], repeated, [False]])))
    pieces, end = list[str](), 0
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist()):
      pieces.append(document.text[end:spans[first][0]])
      end = spans[last][0] if last < len(spans) else len(document.text)
    left = "".join([*pieces, document.text[end:]])
    return document.with_text(left) if left.strip() else Dropped("repeated_substrings", match=matches[0].name)


def _word(text: str) -> re.Pattern[str]:
  """What finds the words of a text."""
  return _ASCII_WORD if text.isascii() else _WORD
