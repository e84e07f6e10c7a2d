"""What a person is to look at: the least certain first, and not the same thing twice."""

import numpy as np

from gpt4x.evaluation import selection


def sure(margins):
  """Probabilities of two classes with these margins."""
  margins = np.asarray(margins, float)
  return np.stack([(1 + margins) / 2, (1 - margins) / 2], -1)


def test_margins():
  np.testing.assert_allclose(selection.margins(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])),
                             [0.2, 0.7, 0])


def test_the_first_is_the_least_certain_and_the_next_are_drawn_by_their_squared_distance():
  features = np.array([[0.0], [1.0], [3.0], [5.0], [99.0]])
  probabilities = sure([0.1, 0.2, 0.3, 0.4, 0.9])
  draws = [selection.choose(probabilities, features, 2, pool=2, seed=seed).tolist() for seed in range(2000)]
  assert {first for first, _ in draws} == {0}
  shares = np.bincount([second for _, second in draws], minlength=5) / 2000
  np.testing.assert_allclose(shares, np.array([0, 1, 9, 25, 0]) / 35, atol=0.04)
  assert selection.choose(probabilities, features, 2, pool=1).tolist() == [0, 1], "the least certain alone"
  assert sorted(selection.choose(probabilities, features, 9)) == [0, 1, 2, 3, 4], "as many as there are, each once"
  assert selection.choose(probabilities, features, 0).size == 0
  again = [selection.choose(probabilities, features, 4, seed=seed).tolist() for seed in (3, 3)]
  assert again[0] == again[1]


def test_every_cluster_is_covered_by_as_many_as_there_are():
  """Twelve clusters, among the least certain; where uncertainty alone would stay in one."""
  rng = np.random.default_rng(0)
  centres = 100 * rng.normal(size=(12, 6))
  cluster = np.repeat(np.arange(12), 30)
  features = centres[cluster] + rng.normal(size=(360, 6))
  margins = np.where(cluster == 0, 0.0, 0.1) + 0.05 * rng.random(360)
  covered = lambda pool: set(cluster[selection.choose(sure(margins), features, 12, pool)])
  assert covered(30) == set(range(12)) and covered(1) == {0}


def test_what_is_certain_is_not_chosen():
  rng = np.random.default_rng(0)
  margins = np.where(np.arange(400) < 100, 0.1, 0.9)
  features = np.where(margins < 0.5, 1, 100)[:, None] * rng.normal(size=(400, 3))
  chosen = selection.choose(sure(margins), features, 25)
  assert (chosen < 100).all() and len(set(chosen)) == 25


def test_equals_are_chosen_last():
  features = np.array([[0.0], [0.0], [0.0], [1.0], [2.0]])
  first, *others = selection.choose(sure([0, 0, 0, 0.1, 0.1]), features, 5)
  assert first == 0 and set(others[:2]) == {3, 4} and others[2:] == [1, 2]
