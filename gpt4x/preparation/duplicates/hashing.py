"""Hashes of 64 bits: of texts, of words and of runs of words."""

from collections.abc import Sequence
import re
import unicodedata

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_WORDS = re.compile(r"\w+")


def of_text(text: str) -> int:
  """The hash of a text."""
  import xxhash
  return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass"))


def of_words(words: Sequence[str]) -> np.ndarray:
  """The hash of each word."""
  import xxhash
  digest = xxhash.xxh3_64_intdigest
  return np.array([digest(word.encode(errors="surrogatepass")) for word in words], np.uint64)


def normal_words(text: str) -> list[str]:
  """Words without case, punctuation and diacritics, and with 0 for each digit."""
  text = text.lower()
  if not text.isascii():
    text = unicodedata.normalize("NFD", text)
    for one in set(text):  # A replacement is much faster than a pattern or a table.
      if one > "\x7f" and (unicodedata.combining(one) or one.isdecimal()):
        text = text.replace(one, "0" if one.isdecimal() else "")
  for digit in "123456789":
    text = text.replace(digit, "0")
  return _WORDS.findall(text)


def runs(words: np.ndarray, length: int) -> np.ndarray:
  """The hash of each run of `length` words, by those of the words; all of them if there are fewer.

  A polynomial in the words, of which sums from the start tell that of any run.
  """
  if len(words) <= length:
    return mixed(_polynomial(words)[-1:])
  sums = np.concatenate([np.zeros(1, np.uint64), _polynomial(words)])
  return mixed((sums[length:] - sums[:-length]) * _powers(_INVERSE, len(words) - length + 1))


def _polynomial(words: np.ndarray) -> np.ndarray:
  return np.cumsum(words * _powers(_BASE, len(words)), dtype=np.uint64)


def _powers(base: np.uint64, count: int) -> np.ndarray:
  return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(max(0, count - 1), base)]), dtype=np.uint64)[:count]


def mixed(x: np.ndarray) -> np.ndarray:
  """Spreads each number's bits over all (the finalizer of SplitMix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
