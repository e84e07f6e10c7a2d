"""Labels that are likely wrong, by confident learning (arXiv:1911.00068).

`probabilities` [n, C] are those of a model that has not seen the example; `labels` [n] are those given.
"""

import numpy as np


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The mean probability of each class among the examples that are labelled so, [C] (equation 2)."""
  classes = range(probabilities.shape[1])
  # A class that nobody has is never taken for the true one.
  return np.array([probabilities[labels == one, one].mean() if (labels == one).any() else np.inf for one in classes])


def likely_true(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The likeliest of the classes that reach their threshold, [n]; -1 where none does."""
  confident = probabilities >= thresholds(probabilities, labels) - 1e-12
  return np.where(confident.any(-1), np.argmax(np.where(confident, probabilities, -1), -1), -1)


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """How many examples with the label i are likely of the class j, [C, C] (equation 1)."""
  true, count = likely_true(probabilities, labels), np.zeros((probabilities.shape[1],) * 2, int)
  np.add.at(count, (labels[true >= 0], true[true >= 0]), 1)
  return count


def joint(confident: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The share of all examples that have the label i and are of the class j, [C, C] (equation 3)."""
  given = np.bincount(labels, minlength=len(confident))
  rows = confident + np.diag((confident.sum(1) == 0).astype(int))  # A label of which nothing is known is right.
  rows = rows / rows.sum(1, keepdims=True) * given[:, None]
  return rows / rows.sum()


def margins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The probability of the label less that of the likeliest other class, [n], from -1 to 1."""
  rows = np.arange(len(labels))
  others = probabilities.copy()
  others[rows, labels] = -1
  return probabilities[rows, labels] - others.max(-1)


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The examples whose label is likely wrong, the likeliest error first.

  For each pair of classes as many as the joint says, those of the lowest margin ("prune by noise rate"); none whose
  label is the likeliest class.
  """
  wanted = np.round(joint(confident_joint(probabilities, labels), labels) * len(labels)).astype(int)
  found = np.zeros(len(labels), bool)
  rows = np.arange(len(labels))
  for given, true in np.argwhere(wanted * (1 - np.eye(len(wanted), dtype=int)) > 0):
    members = rows[labels == given]
    margin = probabilities[members, true] - probabilities[members, given]
    chosen = members[np.argsort(-margin, kind="stable")[:wanted[given, true]]]
    found[chosen] = True
  margin = margins(probabilities, labels)
  return np.array(sorted(np.flatnonzero(found & (margin < 0)), key=lambda i: margin[i]), int)
