"""What prompts have left so far, kept for those that begin alike."""

from collections import OrderedDict
from collections.abc import Sequence
import hashlib

import jax
import numpy as np

from gpt4x.inference.engine import Prefilled


class Prefixes:
  """Snapshots at the borders of a prompt's pieces, the latest used within a budget of bytes.

  What a layer remembers comes from further back than the window, so a snapshot is found by the whole history from the
  beginning. Pieces are the same with a snapshot and without, and so is what follows. One thread uses it.
  """

  def __init__(self, piece: int, budget: int):
    """Takes the tokens of a piece and the bytes of all snapshots."""
    self._piece, self._budget = piece, budget
    self._kept: OrderedDict[bytes, tuple[Prefilled, int]] = OrderedDict()
    self.size = 0  # In bytes.

  def find(self, ids: Sequence[int]) -> tuple[int, Prefilled | None]:
    """How many of the first ids are known, at most all but one, and what they leave."""
    best: tuple[int, Prefilled | None] = 0, None
    for count, key in self._borders(ids):
      if count < len(ids) and key in self._kept:
        self._kept.move_to_end(key)
        best = count, self._kept[key][0]
    return best

  def keep(self, ids: Sequence[int], prefilled: Prefilled) -> None:
    """Keeps what ids leave that end at a border; of others nothing is kept."""
    if not ids or len(ids) % self._piece:
      return
    *_, (_, key) = self._borders(ids)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(prefilled))
    if key in self._kept or size > self._budget:
      return
    self._kept[key] = prefilled, size
    self.size += size
    while self.size > self._budget:
      _, (_, size) = self._kept.popitem(last=False)
      self.size -= size

  def _borders(self, ids: Sequence[int]):
    """(how many ids, the name of these) at each border."""
    content, seen = np.asarray(ids, "<i4"), hashlib.sha256()
    for start in range(0, len(content) - self._piece + 1, self._piece):
      seen.update(content[start:start + self._piece].tobytes())
      yield start + self._piece, seen.copy().digest()
