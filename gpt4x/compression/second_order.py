"""Rounding and pruning that make up for their own errors, one input after another, on the host.

A kernel W [I, O] multiplies inputs with second moments H = sum x x^T. What changes W to Q errs by
tr((W - Q)^T H (W - Q)). Once an input's row is settled, the rows that are not yet settled move so as to lessen the
error (optimal brain surgery; arXiv:2210.17323 for rounding, arXiv:2301.00774 for pruning).
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

_BLOCK = 128  # Rows that are settled before the rest is moved.
_DAMPING = 0.01  # Of the mean moment, added to each.

# (rows W [b, O] that are to be settled, the place of each, the pivots of each) -> what each becomes.
Settle = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pivots(moments: np.ndarray) -> np.ndarray:
  """The upper Cholesky factor of the inverse of H, damped; inputs that were never anything count as average ones."""
  moments = np.array(moments, np.float64)
  diagonal = np.diagonal(moments).copy()
  average = diagonal[diagonal > 0].mean() if (diagonal > 0).any() else 1.0
  moments[np.diag_indices_from(moments)] += np.where(diagonal > 0, 0, average) + _DAMPING * average
  inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(moments, lower=True), np.eye(len(moments)))
  return np.linalg.cholesky(inverse).T  # inverse = U^T U with U upper triangular.


def rounded(kernel: np.ndarray, moments: np.ndarray, nearest: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
  """W [I, O] rounded; `nearest(row, i)` gives the nearest values that row i may have."""
  order = np.argsort(-np.diagonal(moments), kind="stable")  # What counts most is settled while most can make up for it.
  upper = pivots(moments[np.ix_(order, order)])
  rest, found = np.array(kernel[order], np.float64), np.empty(kernel.shape)
  for start in range(0, len(rest), _BLOCK):
    stop = min(start + _BLOCK, len(rest))
    errors = np.empty((stop - start, rest.shape[1]))
    for i in range(start, stop):
      found[order[i]] = nearest(rest[i], order[i])
      errors[i - start] = (rest[i] - found[order[i]]) / upper[i, i]
      rest[i + 1:stop] -= np.outer(upper[i, i + 1:stop], errors[i - start])
    rest[stop:] -= upper[start:stop, stop:].T @ errors
  return found


def pruned(kernel: np.ndarray, moments: np.ndarray, share: float, pattern: tuple[int, int] | None = None) -> np.ndarray:
  """W [I, O] with a share of zeros in each block of inputs; with a pattern (n, m), n of each m neighbours stay."""
  upper = pivots(moments)
  rest = np.array(kernel, np.float64)
  for start in range(0, len(rest), _BLOCK):
    stop = min(start + _BLOCK, len(rest))
    errors, keep = np.empty((stop - start, rest.shape[1])), np.ones((stop - start, rest.shape[1]), bool)
    scale = np.diagonal(upper)[start:stop, None]
    if pattern is None:
      scores = np.square(rest[start:stop] / scale)
      count = round(share * scores.size)
      if count:
        keep = scores > np.partition(scores.ravel(), count - 1)[count - 1]
    for i in range(start, stop):
      if pattern is not None and i % pattern[1] == 0:
        group = slice(i, min(i + pattern[1], stop))
        keep[i - start:group.stop - start] = largest(np.abs(rest[group] / np.diagonal(upper)[group, None]), *pattern)
      settled = np.where(keep[i - start], rest[i], 0)
      errors[i - start] = (rest[i] - settled) / upper[i, i]
      rest[i] = settled
      rest[i + 1:stop] -= np.outer(upper[i, i + 1:stop], errors[i - start])
    rest[stop:] -= upper[start:stop, stop:].T @ errors
  return rest


def largest(scores: np.ndarray, count: int, neighbours: int) -> np.ndarray:
  """Whether each of scores [I, O] is among the `count` largest of so many neighbours along I; of a rest, likewise."""
  keep = np.zeros(scores.shape, bool)
  for start in range(0, len(scores), neighbours):
    group = scores[start:start + neighbours]
    best = np.argsort(-group, 0, kind="stable")[:count]
    np.put_along_axis(keep[start:start + neighbours], best, True, 0)
  return keep
