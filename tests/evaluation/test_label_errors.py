"""Confident learning, by hand and where the errors are known."""

import numpy as np
import pytest

from gpt4x.evaluation import calibration, label_errors, probes
from tests.evaluation.test_classification import blobs

# Five labelled 0, four labelled 1. The thresholds are means of their own columns: 0.6 and 0.65.
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.5, 0.5], [0.1, 0.9],
                          [0.2, 0.8], [0.05, 0.95], [0.45, 0.55], [0.7, 0.3]])
LABELS = np.array([0] * 5 + [1] * 4)


def test_by_hand():
  np.testing.assert_allclose(label_errors.thresholds(PROBABILITIES, LABELS), [0.6, 0.65])
  assert label_errors.likely_true(PROBABILITIES, LABELS).tolist() == [0, 0, 0, -1, 1, 1, 1, -1, 0]
  confident = label_errors.confident_joint(PROBABILITIES, LABELS)
  assert confident.tolist() == [[3, 1], [1, 2]]
  np.testing.assert_allclose(label_errors.joint(confident, LABELS),
                             np.array([[3 / 4 * 5, 1 / 4 * 5], [1 / 3 * 4, 2 / 3 * 4]]) / 9)
  np.testing.assert_allclose(label_errors.margins(PROBABILITIES, LABELS),
                             [0.8, 0.6, 0.4, 0, -0.8, 0.6, 0.9, 0.1, -0.4])
  assert label_errors.suspects(PROBABILITIES, LABELS).tolist() == [4, 8]


def test_the_paper_s_joint():
  """Figure 1: dogs, foxes and cows."""
  confident = np.array([[100, 40, 20], [56, 60, 0], [32, 12, 80]])
  labels = np.repeat([0, 1, 2], confident.sum(1))
  np.testing.assert_allclose(label_errors.joint(confident, labels), [
      [0.25, 0.1, 0.05], [0.14, 0.15, 0], [0.08, 0.03, 0.2]])


def test_of_several_classes_above_their_thresholds_the_likeliest_counts():
  """A class with a low threshold is not taken for the true one only because it is passed."""
  probabilities = np.array([[0.6, 0.1, 0.3], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.7, 0, 0.3]])
  labels = np.array([0, 0, 1, 1, 2])
  np.testing.assert_allclose(label_errors.thresholds(probabilities, labels), [0.55, 0.3, 0.3])
  assert label_errors.likely_true(probabilities, labels).tolist() == [0, 1, 1, 0, 0]


def test_a_class_that_nobody_has_and_one_of_which_nothing_is_known():
  probabilities = np.array([[0.4, 0.5, 0.1], [0.8, 0.1, 0.1]])
  labels = np.array([0, 0])
  confident = label_errors.confident_joint(probabilities, labels)
  assert confident[:, 1:].sum() == 0
  found = label_errors.joint(np.zeros((2, 2), int), np.array([0, 1, 1]))
  np.testing.assert_allclose(found, np.diag([1 / 3, 2 / 3]))


def planted(share, seed=0, apart=5.0):
  """Out-of-fold probabilities of blobs, a share of whose labels is flipped to any other class; and what is flipped."""
  points, truth = blobs(150, apart=apart, dims=8)
  rng = np.random.default_rng(seed)
  flipped = rng.random(len(truth)) < share
  labels = np.where(flipped, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
  dealt = probes.deal(labels, range(len(labels)), 5)
  logits = probes.cross_validated(probes.standardized(points), labels, 3, dealt, [0.1]).logits
  return calibration.scaled(logits, calibration.temperature(logits, labels)), labels, flipped


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_errors_are_found(share):
  probabilities, labels, flipped = planted(share)
  found = label_errors.suspects(probabilities, labels)
  hits = flipped[found]
  assert hits.mean() > 0.85 and hits.sum() > 0.85 * flipped.sum()
  assert hits[:10].mean() >= hits.mean(), "the likeliest come first"
  margins = label_errors.margins(probabilities, labels)
  assert np.all(np.diff(margins[found]) >= 0) and margins[found].max() < 0
  share_found = 1 - np.trace(label_errors.joint(label_errors.confident_joint(probabilities, labels), labels))
  assert share_found == pytest.approx(flipped.mean(), abs=0.05)


def test_where_nothing_is_wrong_little_is_suspected():
  probabilities, labels, _ = planted(0, apart=8.0)
  assert len(label_errors.suspects(probabilities, labels)) == 0


def test_examples_have_no_order():
  probabilities, labels, _ = planted(0.1)
  order = np.random.default_rng(3).permutation(len(labels))
  found = label_errors.suspects(probabilities[order], labels[order])
  assert order[found].tolist() == label_errors.suspects(probabilities, labels).tolist()
