"""Logistic regression against another optimiser, and cross-validation that keeps equals together."""

import numpy as np
import pytest
from scipy import optimize

from gpt4x.evaluation import probes
from tests.evaluation.test_classification import blobs


def reference(features, labels, classes, ridge):
  """The same minimum, found by BFGS from numerical gradients of the formula, example by example."""
  def loss(flat):
    weights, bias = flat[:-classes].reshape(features.shape[1], classes), flat[-classes:]
    scores = [np.exp(row @ weights + bias) for row in features]
    nll = np.mean([-np.log(one[label] / one.sum()) for one, label in zip(scores, labels)])
    return nll + ridge / 2 * (weights**2).sum()

  found = optimize.minimize(loss, np.zeros((features.shape[1] + 1) * classes), method="BFGS", options={"gtol": 1e-7})
  return found.x[:-classes].reshape(-1, classes), found.x[-classes:]


@pytest.mark.parametrize("number, dims", [(8, 3), (2, 8)], ids=["more examples", "more features"])
@pytest.mark.parametrize("ridge", [0.03, 1.0])
def test_a_probe_is_the_minimum_of_its_formula(number, dims, ridge):
  """Found among examples where these are fewer than features; the bias is known up to a constant."""
  points, labels = blobs(number, apart=2.0, dims=dims)
  points = probes.standardized(points)
  *_, probe = probes.fit(points, labels, 3, [0.3, ridge])
  weights, bias = reference(points, labels, 3, ridge)
  np.testing.assert_allclose(probe.weights, weights, atol=2e-4)
  np.testing.assert_allclose(probe.bias - probe.bias.mean(), bias - bias.mean(), atol=2e-4)
  np.testing.assert_allclose(probe.logits(points), points @ probe.weights + probe.bias)


def test_without_weights_the_shares_remain():
  labels = np.array([0] * 6 + [1] * 3 + [2])
  features = np.random.default_rng(0).normal(size=(10, 4))
  logits = next(probes.fit(features, labels, 3, [1e6])).logits(features)
  np.testing.assert_allclose(np.exp(logits[0] - logits[0, 2]), [6, 3, 1], rtol=1e-3)


def test_features_are_brought_to_one_scale():
  features = np.random.default_rng(0).normal(5, [1e-4, 1, 1e6], (50, 3)).astype(np.float32)
  features = np.concatenate([features, np.full((50, 1), 7, np.float32)], 1)
  found = probes.standardized(features)
  np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(found.std(0), [1, 1, 1, 0], atol=1e-5)
  assert not probes.standardized(np.ones((1, 3))).any()


def test_equals_are_in_one_fold_and_every_fold_s_others_show_every_class():
  rng = np.random.default_rng(0)
  labels = rng.choice(4, 60, p=[0.7, 0.2, 0.06, 0.04])
  labels[:8] = [0, 0, 1, 1, 2, 2, 3, 3]
  groups = [*"abcdefgh", *(f"group {rng.integers(30)}" for _ in range(52))]
  for folds in (2, 3, 5, 50):
    dealt = probes.deal(labels, groups, folds, seed=1)
    assert 0 <= dealt.min() and dealt.max() < folds
    assert all(len({fold for fold, other in zip(dealt, groups) if other == group}) == 1 for group in groups)
    for fold in np.unique(dealt):
      assert set(labels[dealt != fold]) == {0, 1, 2, 3}
  shares = np.bincount(probes.deal(labels, range(60), 3)[labels == 0])
  assert shares.max() - shares.min() <= 1, "each class is shared out evenly"


def test_labels_of_chance_are_not_learnt():
  """What is judged has not been seen, duplicates included; and much ridge is chosen where nothing is to be found."""
  points, truth = blobs(30, apart=4.0)
  points = np.repeat(probes.standardized(points), 2, 0)
  groups = np.repeat(np.arange(90), 2)
  right, ridges = [], []
  for labels in (truth, np.random.default_rng(1).permutation(truth)):
    labels = np.repeat(labels, 2)
    found = probes.cross_validated(points, labels, 3, probes.deal(labels, groups, 3), probes.RIDGES[2::2])
    right.append(np.mean(found.logits.argmax(-1) == labels))
    ridges.append(found.ridge)
  assert right[0] > 0.9 and right[1] < 0.5 and ridges[1] > 10 * ridges[0]


def test_out_of_fold_logits_are_those_of_the_other_folds():
  points, labels = blobs(6)
  dealt = probes.deal(labels, range(18), 3)
  found = probes.cross_validated(points, labels, 3, dealt, [0.1])
  for fold in range(3):
    out = dealt == fold
    probe = next(probes.fit(points[~out], labels[~out], 3, [0.1]))
    np.testing.assert_allclose(found.logits[out], probe.logits(points[out]))
  assert probes.log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])) == pytest.approx(
      -(np.log(0.5) + np.log(0.75)) / 2)
