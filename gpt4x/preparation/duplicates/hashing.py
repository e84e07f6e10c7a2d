"""Hashes of 64 bits: of texts, of words and of runs of words."""

from collections.abc import Sequence
import re
import unicodedata

import numpy as np

from gpt4x.data.scripts import UNSPACED
from gpt4x.preparation.libraries import library

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_WORDS = re.compile(r"\w+")
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_WORDS_AND_CHARACTERS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def of_text(text: str) -> int:
  """The hash of a text."""
  xxhash = library("xxhash", "a step that finds duplicates")
  return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass"))


def of_words(words: Sequence[str]) -> np.ndarray:
  """The hash of each word."""
  digest = library("xxhash", "a step that finds duplicates").xxh3_64_intdigest
  return np.array([digest(word.encode(errors="surrogatepass")) for word in words], np.uint64)


def normal_words(text: str) -> list[str]:
  """Words without case, punctuation and diacritics, and with 0 for each digit.

  A character of a script without blanks between words is a word.
  """
  text, pattern = text.lower(), _WORDS
  if not text.isascii():
    text = unicodedata.normalize("NFD", text)
    characters = set(text)
    if _UNSPACED.search("".join(characters)):  # The other pattern is faster.
      pattern = _WORDS_AND_CHARACTERS
    for one in characters:  # A replacement is much faster than a pattern or a table.
      if one > "\x7f" and (unicodedata.combining(one) or one.isdecimal()):
        text = text.replace(one, "0" if one.isdecimal() else "")
  for digit in "123456789":
    text = text.replace(digit, "0")
  return pattern.findall(text)


def runs(words: np.ndarray, length: int) -> np.ndarray:
  """The hash of each run of `length` words, by those of the words; all of them if there are fewer.

  A polynomial in the words, of which sums from the start tell that of any run.
  """
  return mixed(Sums(words).of_runs(min(length, len(words)))) if len(words) else np.zeros(0, np.uint64)


class Sums:
  """Hashes of all runs of a length in a list of numbers, each by two of the sums of its beginnings."""

  def __init__(self, numbers: np.ndarray):
    self._sums = np.zeros(len(numbers) + 1, np.uint64)
    np.cumsum(numbers * _powers(_BASE, len(numbers)), dtype=np.uint64, out=self._sums[1:])

  def of_runs(self, length: int) -> np.ndarray:
    """Of the runs of 1 to all numbers, in their order."""
    found = self._sums[length:] - self._sums[:-length]
    return found * _powers(_INVERSE, len(found))


def _powers(base: np.uint64, count: int) -> np.ndarray:
  return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(max(0, count - 1), base)]), dtype=np.uint64)[:count]


def mixed(x: np.ndarray) -> np.ndarray:
  """Spreads each number's bits over all (the finalizer of SplitMix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
