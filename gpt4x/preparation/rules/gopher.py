"""The rules of MassiveText, of quality and of repetition (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

from collections.abc import Iterable, Iterator
import dataclasses
import itertools
import re

import gin

from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.words import words_of

_PARAGRAPHS = re.compile(r"\n(?:[^\S\n]*\n)+")
_ELLIPSES = ("...", "\N{HORIZONTAL ELLIPSIS}")
_BULLETS = ("\N{BULLET}", "-")


def _share(value: float) -> bool:
  return 0 <= value <= 1


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GopherQuality:
  """Drops what does not look like prose; the defaults are the paper's.

  Words are what blanks separate, with their punctuation. In a document written mostly without blanks (see
  `words.split`) each character is a word: words are counted, and shares of words are taken, by characters, while
  `min_mean_word_length`, `max_mean_word_length` and the stop words are not asked for.

  Attributes:
    min_words, max_words: of a document.
    min_mean_word_length, max_mean_word_length: in characters.
    max_symbols_per_word: of "#", and of ellipses, each by itself.
    max_bullet_lines: share of the lines with text that begin with "•" or "-".
    max_ellipsis_lines: share of the lines with text that end in an ellipsis.
    min_words_with_letter: share of the words that have a letter.
    min_stop_words: how many different ones of `stop_words` are there; 0 for none.
    stop_words: in small letters. They are English: give another language its own.
  """

  min_words: int = 50
  max_words: int = 100_000
  min_mean_word_length: float = 3.0
  max_mean_word_length: float = 10.0
  max_symbols_per_word: float = 0.1
  max_bullet_lines: float = 0.9
  max_ellipsis_lines: float = 0.3
  min_words_with_letter: float = 0.8
  min_stop_words: int = 2
  stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

  def __post_init__(self):
    require(self, "at least 0", lambda value: value >= 0, "min_words", "min_mean_word_length", "max_symbols_per_word")
    require(self, "at least min_words", lambda value: value >= self.min_words, "max_words")
    require(self, "at least min_mean_word_length", lambda value: value >= self.min_mean_word_length,
            "max_mean_word_length")
    require(self, "a share between 0 and 1", _share, "max_bullet_lines", "max_ellipsis_lines", "min_words_with_letter")
    require(self, "a list of words in small letters",
            lambda value: not isinstance(value, str) and all(word == word.lower() for word in value), "stop_words")
    require(self, "between 0 and the number of stop words",
            lambda value: 0 <= value <= len(set(self.stop_words)), "min_stop_words")

  def __call__(self, document: Document) -> Document | Dropped:
    text = document.text
    words, unspaced = words_of(text)
    count = len(words)
    if count < self.min_words:
      return Dropped("too_few_words", count)
    if count > self.max_words:
      return Dropped("too_many_words", count)
    if not count:
      return document
    if not unspaced:
      length = sum(map(len, words)) / count
      if not self.min_mean_word_length <= length <= self.max_mean_word_length:
        return Dropped("mean_word_length", length)
    for reason, symbols in (("hashes", text.count("#")), ("ellipses", sum(map(text.count, _ELLIPSES)))):
      if symbols > self.max_symbols_per_word * count:
        return Dropped(reason, symbols / count)
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    bullets = sum([line.startswith(_BULLETS) for line in lines])
    if bullets > self.max_bullet_lines * len(lines):
      return Dropped("bullet_lines", bullets / len(lines))
    ellipses = sum([line.endswith(_ELLIPSES) for line in lines])
    if ellipses > self.max_ellipsis_lines * len(lines):
      return Dropped("ellipsis_lines", ellipses / len(lines))
    without = sum([not word.isalpha() and not any(map(str.isalpha, word)) for word in words])
    if count - without < self.min_words_with_letter * count:
      return Dropped("words_with_letter", 1 - without / count)
    if self.min_stop_words and not unspaced:
      found = len(set(self.stop_words).intersection(map(str.lower, set(words))))
      if found < self.min_stop_words:
        return Dropped("stop_words", found)
    return document


def _repeats(items: list[str]) -> tuple[float, float]:
  """The share of items that an equal one precedes, and the share of the characters in them."""
  distinct = set(items)
  if len(distinct) == len(items):
    return 0.0, 0.0
  characters = sum(map(len, items))
  return 1 - len(distinct) / len(items), 1 - sum(map(len, distinct)) / characters


def _repeated_grams(words: list[str], longest: int) -> Iterator[tuple[int, list[list[int]]]]:
  """For n = 1 to `longest`, the places of each n-gram that occurs more than once, in their order.

  A repeated n-gram begins with a repeated one of n - 1 words, and so only those are looked at again: few, in prose.
  """
  padded: list[str | None] = [*words, None]  # No word is like the end.
  groups: list[list[int]] = [list(range(len(words)))]
  for n in range(1, longest + 1):
    longer: list[list[int]] = []
    for places in groups:
      if len(places) == 2:  # Most of them.
        if padded[places[0] + n - 1] == padded[places[1] + n - 1]:
          longer.append(places)
        continue
      by_word: dict[str | None, list[int]] = {}
      for place in places:
        word = padded[place + n - 1]
        if word in by_word:
          by_word[word].append(place)
        else:
          by_word[word] = [place]
      longer.extend([same for same in by_word.values() if len(same) > 1])
    groups = longer
    yield n, groups


def _characters_within(places: Iterable[int], n: int, ends: list[int]) -> int:
  """The characters of the words in the n-grams at ascending places, each once. Words 0 ... i - 1 have ends[i]."""
  characters, end = 0, 0
  for place in places:
    characters += ends[place + n] - ends[max(place, end)]
    end = place + n
  return characters


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GopherRepetition:
  """Drops what repeats itself; the defaults are the paper's (table A1).

  An item (line, paragraph, n-gram) is a duplicate if an equal one precedes it in the document: the first of several
  counts as none. Each character is counted once, also where n-grams overlap, and blanks not at all. A document written
  mostly without blanks (see `words.split`) is judged by its lines and paragraphs alone: a few characters that come
  again are no sign of repetition.

  Attributes:
    max_lines, max_paragraphs: share of the lines with text, of the paragraphs, that are duplicates.
    max_line_characters, max_paragraph_characters: share of the characters in them.
    top_grams: pairs of n and the largest share of characters in the most frequent n-gram, if it occurs twice.
    duplicate_grams: pairs of n and the largest share of characters in n-grams that are duplicates.
  """

  max_lines: float = 0.30
  max_paragraphs: float = 0.30
  max_line_characters: float = 0.20
  max_paragraph_characters: float = 0.20
  top_grams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
  duplicate_grams: tuple[tuple[int, float], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))

  def __post_init__(self):
    require(self, "a share between 0 and 1", _share, "max_lines", "max_paragraphs", "max_line_characters",
            "max_paragraph_characters")
    require(self, "a list of pairs of n, at least 1, and a share between 0 and 1", lambda pairs: all(
        len(pair) == 2 and isinstance(pair[0], int) and pair[0] >= 1 and _share(pair[1]) for pair in pairs),
            "top_grams", "duplicate_grams")

  def __call__(self, document: Document) -> Document | Dropped:
    text = document.text
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    paragraphs = [paragraph for paragraph in map(str.strip, _PARAGRAPHS.split(text)) if paragraph]
    for reason, items, most, most_characters in (
        ("paragraphs", paragraphs, self.max_paragraphs, self.max_paragraph_characters),
        ("lines", lines, self.max_lines, self.max_line_characters)):
      share, characters = _repeats(items)
      if share > most:
        return Dropped(f"duplicate_{reason}", share)
      if characters > most_characters:
        return Dropped(f"duplicate_{reason[:-1]}_characters", characters)
    words, unspaced = words_of(text)
    return document if unspaced else self._by_grams(words) or document

  def _by_grams(self, words: list[str]) -> Dropped | None:
    top, duplicate = dict(self.top_grams), dict(self.duplicate_grams)
    ends = [0, *itertools.accumulate(map(len, words))]
    for n, groups in _repeated_grams(words, max([0, *top, *duplicate])):
      if not groups:
        return None
      if n in top:
        # The longest of the most frequent; of equal ones, the first in the text.
        places = max(groups, key=lambda places: (len(places), ends[places[0] + n] - ends[places[0]]))
        share = _characters_within(places, n, ends) / ends[-1]
        if share > top[n]:
          return Dropped(f"top_{n}_gram", share)
      if n in duplicate:
        again = sorted(itertools.chain.from_iterable([places[1:] for places in groups]))
        share = _characters_within(again, n, ends) / ends[-1]
        if share > duplicate[n]:
          return Dropped(f"duplicate_{n}_grams", share)
    return None
