"""Which examples a person should label next: those of which a model is least certain, and unlike each other."""

import numpy as np

from gpt4x.evaluation.classification import squared_distances

POOL = 4  # How many uncertain examples each one is chosen from.


def margins(probabilities: np.ndarray) -> np.ndarray:
  """How much likelier the likeliest class is than the second, [n] of [n, C]; 0 is the least certain."""
  second, first = np.sort(probabilities, -1)[:, -2:].T
  return first - second


def choose(probabilities: np.ndarray, features: np.ndarray, count: int, pool: int = POOL, seed: int = 0) -> np.ndarray:
  """Up to `count` examples, in the order that they should be looked at: each beginning of it is spread as well.

  The first is the least certain. Each next one is drawn from the pool * count least certain, likelier the farther it is
  from all before it, by the squared distance (k-means++; Arthur and Vassilvitskii, SODA 2007). Always to take the
  farthest (k-center) would choose what is like nothing else, and teaches less.

  Args:
    probabilities: [n, C], of each class.
    features: [n, F], on one scale.
    count: examples wanted.
    pool: 1 takes the least certain alone.
    seed: of the draws.
  """
  rng = np.random.default_rng(seed)
  least = np.argsort(margins(probabilities), kind="stable")[:pool * count]
  points, chosen, distance = features[least], list[int](), np.full(len(least), np.inf)
  for _ in range(min(count, len(least))):
    if chosen and distance.any():
      place = int(rng.choice(len(least), p=distance / distance.sum()))
    else:  # The first; or all that are left equal one that is chosen.
      place = next(place for place in range(len(least)) if place not in chosen)
    chosen.append(place)
    distance = np.minimum(distance, squared_distances(points, points[place:place + 1])[:, 0])
    distance[chosen] = 0
  return least[chosen]
