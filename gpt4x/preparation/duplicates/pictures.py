"""Pictures that look alike."""

from collections.abc import Sequence
import dataclasses
import itertools

import gin
import numpy as np

from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing
from gpt4x.preparation.duplicates.join import Match, NearJoin
from gpt4x.preparation.media_rules import image_key

_BITS = 64


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ImageDuplicates(NearJoin):
  """Drops a picture that looks like an earlier one that is kept; documents without a picture stay.

  Attributes:
    bits: by how many of its 64 the perceptual hash may differ (pHash; Zauner 2010).
  """

  bits: int = 4

  def __post_init__(self):
    require(self, "from 0 to 16", lambda value: 0 <= value <= 16, "bits")

  @property
  def threshold(self) -> float:  # type: ignore[override]
    return 1 - self.bits / _BITS

  def features(self, document: Document) -> np.ndarray:
    path = document.path("image")
    return np.array([image_key(path)] if path else [], np.uint64)

  def keys_of(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every two of bits + 2 pieces of the hash: hashes that differ in so many bits have at least two in common."""
    if not len(features):
      return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    edges = np.linspace(0, _BITS, self.bits + 3).round().astype(int).tolist()
    pieces = [int(features[0]) >> start & (1 << stop - start) - 1 for start, stop in itertools.pairwise(edges)]
    keys = [hashing.of_text(f"{one} {other} {pieces[one]} {pieces[other]}")
            for one, other in itertools.combinations(range(len(pieces)), 2)]
    return np.array(keys, np.uint64), np.zeros(len(keys), np.uint32)

  def similarity(self, one: np.ndarray, other: np.ndarray) -> float:
    return 1 - (int(one[0]) ^ int(other[0])).bit_count() / _BITS

  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    return Dropped("image_duplicate", round(matches[0].value, 4), matches[0].name)
