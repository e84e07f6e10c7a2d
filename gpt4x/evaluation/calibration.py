"""How far confidence is right: temperature scaling (arXiv:1706.04599), and the expected calibration error."""

import numpy as np
from scipy import optimize, special

BINS = 15


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """What logits [n, C] are to be divided by for the labels [n] to be likeliest; from 0.01 to 100.

  The logits have to be of examples that their model has not learnt from: of others any model is sure. One example more,
  whose label is any, keeps few that are all right from making it sure too (as in Platt, 1999).
  """
  target = np.eye(logits.shape[1])[labels]
  target += (1 / logits.shape[1] - target) / (len(labels) + 1)

  def loss(log_scale: float) -> float:
    return -float(np.mean(np.sum(target * special.log_softmax(logits * np.exp(log_scale), -1), -1)))

  # The loss is convex in the scale, so it has one minimum in the scale's logarithm too.
  found = optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-6})
  return float(np.exp(-found.x))


def scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Probabilities [n, C]; the likeliest class stays the likeliest."""
  return special.softmax(logits / temperature, -1)


def scaled_by_others(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
  """Probabilities [n, C], those of each fold by the temperature of the other folds: to judge calibration by."""
  found = np.zeros_like(logits)
  for fold in np.unique(folds):
    out = folds == fold
    found[out] = scaled(logits[out], temperature(logits[~out], labels[~out]))
  return found


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
  """How far the confidence in the likeliest class is from how often it is right, on average over equal bins of it.

  Few examples make it too large: of n it is about sqrt(bins / n) / 2 even where all confidence is right.
  """
  confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # A bin has its upper end.
  gaps = np.bincount(place, right - confidence, bins)
  return float(np.abs(gaps).sum() / len(labels))
