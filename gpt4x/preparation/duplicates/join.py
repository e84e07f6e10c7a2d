"""A step that compares all documents: it gives keys of each, and is told where the same keys came up before."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt4x.preparation.document import Document, Dropped


class Match(NamedTuple):
  """An earlier document that one is like.

  Attributes:
    place: where in the document, in the join's own count.
    name: of the earlier document.
    own: whether the earlier one is the same document.
    other_place: where in the earlier one.
    value: how much they are alike, from 0 to 1.
  """

  place: int
  name: str
  own: bool
  other_place: int
  value: float


class Join(abc.ABC):
  """A step that compares documents by keys: among equal keys, all but the first in the order of documents match it."""

  @abc.abstractmethod
  def keys(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
    """(keys, places) of a document: uint64 and uint32 of one length."""

  @abc.abstractmethod
  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    """What becomes of a document that has matches, in the order of their places."""


class NearJoin(Join):
  """A join whose equal keys only suggest that two documents are alike; what they have in common decides.

  A document is dropped if it is alike an earlier one that is kept. A chain in which only neighbors are alike so keeps
  every other document, and each that is dropped names one that is there.
  """

  threshold: float

  def keys(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
    return self.keys_of(self.features(document))

  @abc.abstractmethod
  def features(self, document: Document) -> np.ndarray:
    """What two documents are compared by: uint64."""

  @abc.abstractmethod
  def keys_of(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a document by its features."""

  @abc.abstractmethod
  def similarity(self, one: np.ndarray, other: np.ndarray) -> float:
    """How much the features of two documents are alike; at least `threshold` drops the later one."""
