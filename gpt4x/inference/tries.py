"""A trie of token sequences, as arrays: what many candidates for an answer begin with is there once."""

from collections.abc import Sequence

import numpy as np

_NONE = -1  # No token: what fills up the shorter sequences.


class Trie:
  """Nodes level by level, each a range of the candidates in the order of their tokens; node 0 is the root.

  Attributes, an array each, by node:
    token: the last token of what a node stands for.
    depth: how many tokens it stands for.
    start, stop: the range of candidates that begin so, of `order`.
    ended: how many of them, the first, have no further token.
    first_child, last_child: the range of nodes that are one token longer.
    longest: tokens of the longest candidate in the range.
    single: whether all of the range are the same tokens.
  And by candidate:
    order: the candidates' numbers, sorted by their tokens.
    lengths: tokens of each, by number.
  """

  def __init__(self, sequences: Sequence[Sequence[int]]):
    """Takes the tokens of each candidate, none of them empty; several may be alike."""
    self.lengths = np.array([len(one) for one in sequences], np.int64)
    if not len(sequences) or not self.lengths.min():
      raise ValueError("each candidate needs a token")
    self.depth_limit = int(self.lengths.max())
    rows = np.full((len(sequences), self.depth_limit), _NONE, np.int64)
    for row, one in zip(rows, sequences):
      row[:len(one)] = one
    self.order = np.lexsort(rows.T[::-1])
    self._rows = rows[self.order]
    self._place = np.argsort(self.order)
    self._build()

  def _build(self) -> None:
    rows, lengths, count = self._rows, self.lengths[self.order], len(self._rows)
    # Whether a candidate differs from the one before it in its first d tokens, for each d.
    new = np.ones((count, self.depth_limit + 1), bool)
    new[1:, 0] = False
    new[1:, 1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], 1)
    starts = [np.flatnonzero(new[:, d] & (lengths >= d)) for d in range(self.depth_limit + 1)]
    firsts = np.cumsum([0, *map(len, starts)])
    self.depth = np.repeat(np.arange(self.depth_limit + 1), [len(some) for some in starts])
    self.start = np.concatenate(starts)
    stops, children = [], []
    for d, some in enumerate(starts):
      edges = np.flatnonzero(np.append(new[:, d], True))
      stops.append(edges[np.searchsorted(edges, some, "right")])
      below = starts[d + 1] if d < self.depth_limit else np.zeros(0, np.int64)
      children.append(firsts[d + 1] + np.stack([np.searchsorted(below, some), np.searchsorted(below, stops[-1])]))
    self.stop = np.concatenate(stops)
    self.first_child, self.last_child = np.concatenate(children, 1)
    self.token = rows[self.start, np.maximum(self.depth - 1, 0)]
    # Of a sorted range, those that end at its node come first.
    ends = np.cumsum(lengths[:, None] == np.arange(self.depth_limit + 1), 0)
    before = lambda places: np.where(places > 0, ends[np.maximum(places - 1, 0), self.depth], 0)
    self.ended = before(self.stop) - before(self.start)
    self.longest = np.maximum.reduceat(np.append(lengths, 0), np.stack([self.start, self.stop], 1).ravel())[::2]
    last = np.cumsum(new[:, -1])
    self.single = last[self.stop - 1] == last[self.start]

  def __len__(self) -> int:
    return len(self.token)

  def tail(self, node: int) -> np.ndarray:
    """The tokens that follow a `single` node's own."""
    row = self.start[node]
    return self._rows[row, self.depth[node]:self.lengths[self.order[row]]]

  def above(self, nodes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Whether each node is on the way to a candidate, given by number."""
    places = self._place[candidates]
    return (self.start[nodes] <= places) & (places < self.stop[nodes])

  def sequence(self, candidate: int) -> np.ndarray:
    return self._rows[self._place[candidate], :self.lengths[candidate]]


def ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The numbers of all ranges, one after the other, and which range each is of."""
  counts = stops - starts
  of = np.repeat(np.arange(len(starts)), counts)
  return np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[of], of
