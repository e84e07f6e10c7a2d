"""Ranks of right answers among many candidates, and what is usually said of such ranks."""

from collections.abc import Collection, Sequence
import math

import numpy as np

HITS = 1, 3, 10


def rank_of(scores: np.ndarray, answer: int, known: Collection[int] = (), tolerance: float = 0.0) -> float:
  """The rank of one candidate, from 1; of those that score alike, the mean of their places.

  Args:
    scores: of n candidates, [n]; the higher, the better.
    answer: the candidate whose rank is wanted.
    known: other right answers, which are left out of the ranking ("filtered", as Bordes et al. 2013 have it).
    tolerance: scores that differ by no more are alike.
  """
  others = np.ones(len(scores), bool)
  others[list(known)] = False
  others[answer] = False
  # What cannot be compared, such as what a diverged model says, is alike.
  better, worse = scores[others] > scores[answer] + tolerance, scores[others] < scores[answer] - tolerance
  return 1.0 + int(better.sum()) + int(np.sum(~better & ~worse)) / 2


def summary(ranks: Sequence[float] | np.ndarray) -> dict[str, float]:
  """Mean reciprocal rank, its standard error where there are several ranks, hits@1, 3 and 10, and the mean rank."""
  ranks = np.asarray(ranks, float)
  if not len(ranks):
    return {}
  found = {"mrr": float(np.mean(1 / ranks))}
  if len(ranks) > 1:
    found["mrr_error"] = float(np.std(1 / ranks, ddof=1) / math.sqrt(len(ranks)))
  found |= {f"hits@{k}": float(np.mean(ranks <= k)) for k in HITS}
  return found | {"mean_rank": float(np.mean(ranks))}
