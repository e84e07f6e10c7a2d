"""Temperatures where the right one is known, and the calibration error by hand."""

import numpy as np
import pytest
from scipy import special

from gpt4x.evaluation import calibration


def drawn(number, classes=4, sharpness=1.0, seed=0):
  """Logits, `sharpness` times those that the labels are drawn by."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(number, classes))
  chances = special.softmax(logits, -1)
  labels = np.array([rng.choice(classes, p=row) for row in chances])
  return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 5.0])
def test_the_temperature_by_which_labels_were_drawn_is_found(sharpness):
  logits, labels = drawn(4000, sharpness=sharpness)
  found = calibration.temperature(logits, labels)
  assert found == pytest.approx(sharpness, rel=0.06)
  probabilities = calibration.scaled(logits, found)
  np.testing.assert_allclose(probabilities.sum(-1), 1)
  np.testing.assert_array_equal(probabilities.argmax(-1), logits.argmax(-1))
  error = lambda temperature: calibration.expected_calibration_error(calibration.scaled(logits, temperature), labels)
  assert error(found) < 0.03 and (sharpness == 1 or error(1) > 2 * error(found))


def test_a_temperature_is_a_minimum():
  logits, labels = drawn(50, sharpness=3.0)
  found = calibration.temperature(logits, labels)
  target = np.eye(4)[labels] * 50 / 51 + 0.25 / 51  # And one example more, of any label.
  loss = lambda temperature: -np.sum(target * np.log(calibration.scaled(logits, temperature)))
  assert all(loss(found) <= loss(found * change) for change in (0.97, 0.999, 1.001, 1.03))


@pytest.mark.parametrize("number", [4, 400])
def test_few_examples_that_are_all_right_make_nobody_sure(number):
  """The confidence is the share of one example more that is of any class; where all are wrong, it is least."""
  logits, labels = np.tile(5 * np.eye(4), (number // 4, 1)), np.tile(np.arange(4), number // 4)
  found = calibration.scaled(logits, calibration.temperature(logits, labels))
  np.testing.assert_allclose(found.max(-1), (number + 0.25) / (number + 1), atol=1e-4)
  assert calibration.temperature(logits, (labels + 1) % 4) == pytest.approx(100, rel=0.01)


def test_each_fold_is_scaled_by_the_others():
  (one, labels), (other, others) = drawn(500, sharpness=4.0), drawn(500, seed=1)
  folds = np.repeat([0, 1], 500)
  found = calibration.scaled_by_others(np.concatenate([one, other]), np.concatenate([labels, others]), folds)
  np.testing.assert_allclose(found[:500], calibration.scaled(one, calibration.temperature(other, others)))
  np.testing.assert_allclose(found[500:], calibration.scaled(other, calibration.temperature(one, labels)))


def test_the_calibration_error_by_hand():
  """Two bins of ten: at 0.95 half of two are right, at 0.65 both of two are."""
  confidence = np.array([0.95, 0.95, 0.65, 0.65])
  probabilities = np.stack([confidence, 1 - confidence], -1)
  labels = np.array([0, 1, 0, 0])
  expected = (2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.65)) / 4
  assert calibration.expected_calibration_error(probabilities, labels, 10) == pytest.approx(expected)
  assert calibration.expected_calibration_error(probabilities, labels, 1) == pytest.approx(abs(0.75 - 0.8))


def test_the_ends_of_bins():
  """A bin has its upper end: 0.2 is with 0.15, not with 0.25; 1 is in the last."""
  probabilities = np.array([[0.2, 0.2, 0.2, 0.2, 0.2], [1.0, 0, 0, 0, 0]])
  assert calibration.expected_calibration_error(probabilities, np.array([0, 0]), 5) == pytest.approx(0.4)
  three = np.array([[0.6, 0.4], [0.8, 0.2], [0.81, 0.19]])
  labels = np.array([0, 1, 0])  # Of (0.6, 0.8] one is wrong at 0.8; 0.81 is by itself, and so is 0.6.
  assert calibration.expected_calibration_error(three, labels, 5) == pytest.approx((0.4 + 0.8 + 0.19) / 3)
