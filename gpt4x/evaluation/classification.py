"""Whether samples teach a classifier what real media teach it: the classification accuracy score.

That a classifier of real media recognises the samples shows little, as blurred means of each class are recognised best.
"""

from collections.abc import Sequence

import numpy as np


def classification_accuracy_score(samples: np.ndarray, sample_labels: Sequence, real: np.ndarray,
                                  real_labels: Sequence) -> float:
  """The share of real media that a classifier labels right which has seen samples alone (CAS, arXiv:1905.10887).

  Args:
    samples: features [n, F], of `features.hog` or `features.timbre`.
    sample_labels: what each sample was to be.
    real, real_labels: of media that no model was trained on.
  """
  return float(np.mean(kernel_ridge(samples, sample_labels, real) == np.asarray(real_labels)))


def kernel_ridge(features: np.ndarray, labels: Sequence, others: np.ndarray, width: float = 1.0,
                 ridge: float = 0.03) -> np.ndarray:
  """The labels that ridge regression with a Gaussian kernel gives others, [m], when it has seen `features` [n, F].

  The kernel is exp(-|x - y|^2 / (width F variance)), with the variance of all that was seen.
  """
  classes, which = np.unique(np.asarray(labels), return_inverse=True)
  features, others = np.asarray(features, np.float64), np.asarray(others, np.float64)
  middle = features.mean(0)
  features, others = features - middle, others - middle
  scale = 1 / max(width * features.shape[1] * features.var(), 1e-12)
  signs = np.where(which[:, None] == np.arange(len(classes)), 1.0, 0.0)
  balance = signs.mean(0)
  kernel = np.exp(-scale * squared_distances(features, features))
  weights = np.linalg.solve(kernel + ridge * np.eye(len(features)), signs - balance)
  found = np.exp(-scale * squared_distances(others, features)) @ weights + balance
  return classes[np.argmax(found, -1)]


def squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """[n, m] between the rows of [n, F] and [m, F]; of whole numbers it is exact."""
  squares = lambda rows: np.einsum("nf,nf->n", rows, rows)
  return np.maximum(squares(one)[:, None] + squares(other) - 2 * one @ other.T, 0)


def class_gaussians(vectors: np.ndarray, labels: Sequence, number: int, rank: int,
                    seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """`number` draws for each class from a Gaussian with its mean and its `rank` largest variances: a baseline.

  Args:
    vectors: of training media [n, F], pixels or features.
    labels: of each.
    number: of draws for each class.
    rank: how many principal components vary, as far as a class has them.
    seed: of the draws.

  Returns:
    The draws [classes * number, F] and their labels.
  """
  rng, found, of = np.random.default_rng(seed), [], np.asarray(labels)
  classes = np.unique(of)
  for label in classes:
    members = np.asarray(vectors[of == label], np.float64)
    mean = members.mean(0)
    _, deviations, components = np.linalg.svd(members - mean, full_matrices=False)
    deviations, components = deviations[:rank] / np.sqrt(max(len(members) - 1, 1)), components[:rank]
    found.append(mean + rng.normal(size=(number, len(deviations))) * deviations @ components)
  return np.concatenate(found), np.repeat(classes, number)
