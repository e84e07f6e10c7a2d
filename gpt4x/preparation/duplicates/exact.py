"""Documents that are equal."""

from collections.abc import Sequence
import dataclasses

import gin
import numpy as np

from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing
from gpt4x.preparation.duplicates.join import Join, Match


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExactDuplicates(Join):
  """Drops every document whose text an earlier one has.

  Attributes:
    normalize: whether case, digits, punctuation, blanks and diacritics count for nothing.
  """

  normalize: bool = False

  def keys(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
    text = " ".join(hashing.normal_words(document.text)) if self.normalize else document.text
    return np.array([hashing.of_text(text)], np.uint64), np.zeros(1, np.uint32)

  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    return Dropped("duplicate", match=matches[0].name)
