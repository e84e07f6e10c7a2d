"""Which examples a person should label next: those of which a model is least certain, and unlike each other."""

import numpy as np

from gpt4x.evaluation.classification import squared_distances

POOL = 4  # How many uncertain examples each one is chosen from.


def margins(probabilities: np.ndarray) -> np.ndarray:
  """How much likelier the likeliest class is than the second, [n] of [n, C]; 0 is the least certain."""
  second, first = np.sort(probabilities, -1)[:, -2:].T
  return first - second


def choose(probabilities: np.ndarray, features: np.ndarray, count: int, pool: int = POOL) -> np.ndarray:
  """Up to `count` examples, in the order that they should be looked at.

  The first is the least certain; each next one is the farthest from all before it (greedy k-center,
  arXiv:1708.00489) among the pool * count least certain.

  Args:
    probabilities: [n, C], of each class.
    features: [n, F], on one scale.
    count: examples wanted.
    pool: 1 takes the least certain alone.
  """
  least = np.argsort(margins(probabilities), kind="stable")[:pool * count]
  chosen, distance = list[int](), np.full(len(least), np.inf)
  points = features[least]
  for _ in range(min(count, len(least))):
    chosen.append(int(np.argmax(distance)))  # Of equals the least certain, which is the first.
    distance = np.minimum(distance, squared_distances(points, points[chosen[-1:]])[:, 0])
    distance[chosen] = -1
  return least[chosen]
