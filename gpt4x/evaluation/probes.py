"""A linear probe: multinomial logistic regression with ridge on features, chosen and judged by cross-validation."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
import dataclasses

import numpy as np
from scipy import optimize, special

# What the squared weights count for beside the mean loss of an example.
RIDGES = tuple(float(10**power) for power in np.arange(-3, 2.5, 0.5))


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
  """Classes from features [n, F], which have to be on one scale (`standardized`)."""

  weights: np.ndarray  # [F, C]
  bias: np.ndarray  # [C]

  def logits(self, features: np.ndarray) -> np.ndarray:
    """Log-probabilities of each class up to a constant of each example, [n, C]."""
    return features @ self.weights + self.bias


def standardized(features: np.ndarray) -> np.ndarray:
  """Features [n, F] with mean 0 and deviation 1, float64; those that never vary become 0."""
  features = np.asarray(features, np.float64)
  centred, deviation = features - features.mean(0), features.std(0)
  constant = deviation <= 1e-6 * (1 + abs(features).max(0, initial=0))
  return np.where(constant, 0, centred / np.where(constant, 1, deviation))


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int, ridges: Iterable[float]) -> Iterator[Probe]:
  """The probe of each ridge: the minimum of the mean negative log-likelihood + ridge / 2 * the squared weights.

  Args:
    features: [n, F], on one scale.
    labels: [n], from 0 to num_classes - 1.
    num_classes: C.
    ridges: each above 0, and best in falling order: each search starts where the one before has ended. The bias is
      free.
  """
  # The best weights are a combination of examples: with fewer examples than features, they are found among these.
  basis = None
  if len(features) < features.shape[1]:
    basis = np.linalg.svd(features, full_matrices=False)[2].T
  inputs = features if basis is None else features @ basis
  target = np.eye(num_classes)[labels]
  start = np.zeros((inputs.shape[1] + 1, num_classes))
  for ridge in ridges:

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
      weights, bias = (both := flat.reshape(start.shape))[:-1], both[-1]
      logits = inputs @ weights + bias
      logits -= logits.max(-1, keepdims=True)
      shares = np.exp(logits)
      total = shares.sum(-1, keepdims=True)
      error = (shares / total - target) / len(inputs)
      gradient = np.concatenate([inputs.T @ error + ridge * weights, error.sum(0, keepdims=True)])
      value = (np.log(total).sum() - (target * logits).sum()) / len(inputs) + ridge / 2 * (weights**2).sum()
      return value, gradient.ravel()

    start = optimize.minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={
        "maxiter": 1000, "ftol": 1e-10, "gtol": 1e-5}).x.reshape(start.shape)
    weights, bias = start[:-1], start[-1]
    yield Probe(weights if basis is None else basis @ weights, bias)


def deal(labels: np.ndarray, groups: Sequence[Hashable], num_folds: int, seed: int = 0) -> np.ndarray:
  """A fold for each example, [n], with an even share of each class; a group is never in two folds.

  Where a class has several groups, they are in several folds, so that each fold's others show every class.
  """
  rng, members = np.random.default_rng(seed), dict[Hashable, list[int]]()
  for place, group in enumerate(groups):
    members.setdefault(group, []).append(place)
  fold_of = dict[Hashable, int]()
  counts = np.zeros((num_folds, labels.max() + 1), int)
  for label in np.argsort(np.bincount(labels), kind="stable"):  # The rarest first.
    waiting = [name for name, places in members.items() if name not in fold_of and label in labels[places]]
    for place in rng.permutation(len(waiting)):
      name = waiting[place]
      # The fold with the fewest of this class, and of these the one with the fewest of all.
      fold_of[name] = int(np.lexsort((counts.sum(1), counts[:, label]))[0])
      np.add.at(counts[fold_of[name]], labels[members[name]], 1)
  return np.array([fold_of[group] for group in groups])


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidated:
  """What probes say of examples that they have not seen."""

  ridge: float  # That with the least loss on such examples.
  logits: np.ndarray  # [n, C]


def cross_validated(features: np.ndarray, labels: np.ndarray, num_classes: int, folds: np.ndarray,
                    ridges: Sequence[float] = RIDGES) -> CrossValidated:
  """The logits of each example by a probe of the other folds.

  Args:
    features, labels, num_classes: as for `fit`.
    folds: [n], as `deal` gives them.
    ridges: to choose from, one for all folds; from the largest down, until two in a row are no better.
  """
  ridges = sorted(ridges, reverse=True)
  outs = [folds == fold for fold in np.unique(folds)]
  paths = [fit(features[~out], labels[~out], num_classes, ridges) for out in outs]
  best, least, waited = CrossValidated(ridges[0], np.zeros((len(labels), num_classes))), np.inf, 0
  for ridge in ridges:
    logits = np.zeros((len(labels), num_classes))
    for out, path in zip(outs, paths):
      logits[out] = next(path).logits(features[out])
    loss = log_loss(special.softmax(logits, -1), labels)
    if loss < least:
      best, least, waited = CrossValidated(ridge, logits), loss, 0
    else:
      waited += 1
    if waited == 2:
      break
  return best


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """The mean negative log-probability, in nats, of the labels [n] by [n, C]."""
  return float(-np.mean(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300))))
