"""The rules that FineWeb adds to Gopher's and C4's (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

import dataclasses

import gin

from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.words import words_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FineWeb:
  """Drops lists, menus and what repeats its lines; the defaults are FineWeb's.

  Blank lines are none, as FineWeb's texts had no blank ones; only the newlines per word count them. In a document
  written mostly without blanks (see `words.split`) the ends and lengths of lines are not asked for, and words are
  characters.

  Attributes:
    min_line_ends: share of the lines that end in one of `ends`.
    ends: terminal punctuation.
    max_short_lines: share of the lines of at most `short_line` characters.
    short_line: in characters.
    max_duplicate_line_characters: share of the characters in lines that an equal one precedes.
    max_newlines_per_word: of a list, this is large.
  """

  min_line_ends: float = 0.12
  ends: tuple[str, ...] = (".", "?", "!", '"', "'")
  max_short_lines: float = 0.67
  short_line: int = 30
  max_duplicate_line_characters: float = 0.01
  max_newlines_per_word: float = 0.3

  def __post_init__(self):
    require(self, "a share between 0 and 1", lambda value: 0 <= value <= 1, "min_line_ends", "max_short_lines",
            "max_duplicate_line_characters")
    require(self, "at least 0", lambda value: value >= 0, "short_line", "max_newlines_per_word")
    require(self, "a list of marks", lambda value: not isinstance(value, str) and all(value), "ends")

  def __call__(self, document: Document) -> Document | Dropped:
    text = document.text
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    count = max(1, len(lines))  # A document without text has no line that ends as it should.
    words, unspaced = words_of(text)
    if not unspaced:
      ends = tuple(self.ends)
      ended = sum([line.endswith(ends) for line in lines])
      if ended < self.min_line_ends * count:
        return Dropped("line_ends", ended / count)
      short = sum([length <= self.short_line for length in map(len, lines)])
      if short > self.max_short_lines * count:
        return Dropped("short_lines", short / count)
    distinct = set(lines)
    if len(distinct) < len(lines):
      share = 1 - sum(map(len, distinct)) / sum(map(len, lines))
      if share > self.max_duplicate_line_characters:
        return Dropped("duplicate_line_characters", share)
    newlines = text.count("\n")
    if newlines > self.max_newlines_per_word * len(words):
      return Dropped("newlines_per_word", newlines / max(1, len(words)))
    return document
