"""Documents that are nearly equal, by MinHash."""

from collections.abc import Sequence
import dataclasses
import functools

import gin
import numpy as np

from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing
from gpt4x.preparation.duplicates.join import Match, NearJoin

_CHUNK = 256  # n-grams whose hashes fit into a core's cache.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NearDuplicates(NearJoin):
  """Drops a document that has most of its n-grams in common with an earlier one that is kept.

  MinHash suggests pairs (Broder 1997): two documents of Jaccard similarity J meet with probability
  1 - (1 - J^rows)^bands, which is .56 at .7 and .92 at .8. Then the n-grams themselves decide.

  Attributes:
    threshold: the least Jaccard similarity of what is dropped.
    ngram: words; a shorter document is a single n-gram.
    bands, rows: of the signature, each a key of so many minima.
  """

  threshold: float = 0.75
  ngram: int = 5
  bands: int = 14
  rows: int = 8

  def __post_init__(self):
    require(self, "above 0 and at most 1", lambda value: 0 < value <= 1, "threshold")
    require(self, "at least 1", lambda value: value >= 1, "ngram", "bands", "rows")

  def features(self, document: Document) -> np.ndarray:
    words = hashing.normal_words(document.text)
    return np.unique(hashing.runs(hashing.of_words(words), self.ngram)) if words else np.zeros(0, np.uint64)

  def keys_of(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(features):
      return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    bands = self.signature(features).reshape(self.bands, self.rows)
    factors, _ = _functions(self.rows, 1)
    keys = hashing.mixed((bands * factors).sum(1, dtype=np.uint64) + np.arange(self.bands, dtype=np.uint64))
    return keys, np.zeros(self.bands, np.uint32)

  def signature(self, features: np.ndarray) -> np.ndarray:
    """The least value of each hash function over all features: uint64 [bands * rows]."""
    factors, terms = _functions(self.bands * self.rows, 0)
    least = np.full(len(factors), np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(features), _CHUNK):
      values = features[start:start + _CHUNK, None] * factors + terms
      np.minimum(least, values.min(0), out=least)
    return least

  def similarity(self, one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)

  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    return Dropped("near_duplicate", round(matches[0].value, 4), matches[0].name)


@functools.lru_cache(maxsize=8)
def _functions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Factors and terms of x * factor + term modulo 2^64, each of which puts all x into another order."""
  drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, 1 << 64, (2, count), np.uint64)
  return drawn[0] | np.uint64(1), drawn[1]
