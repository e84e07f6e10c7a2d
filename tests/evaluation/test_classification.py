"""The classification accuracy score where its answer is known."""

import numpy as np
import pytest

from gpt4x.evaluation import classification


def rings(number, radii=(1.0, 3.0), seed=0):
  """Points on circles around one centre: no mean and no line tells them apart."""
  rng = np.random.default_rng(seed)
  labels = np.repeat([f"ring {i}" for i in range(len(radii))], number)
  angles = rng.uniform(0, 2 * np.pi, len(labels))
  radius = np.repeat(radii, number) + 0.1 * rng.normal(size=len(labels))
  return np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1), labels


def blobs(number, seed=0, classes=3, dims=4, apart=6.0, centres_seed=7):
  centres = np.random.default_rng(centres_seed).normal(size=(classes, dims))
  centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
  labels = np.repeat(np.arange(classes), number)
  return centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), dims)), labels


def test_the_kernel_separates_what_no_line_does():
  points, labels = rings(60)
  others, truth = rings(60, seed=1)
  assert np.mean(classification.kernel_ridge(points, labels, others) == truth) > 0.98


def test_kernel_ridge_is_its_formula():
  """Point by point, in the form of a linear system over the kernel."""
  points, labels = blobs(5)
  others, _ = blobs(4, seed=2)
  scale = points.shape[1] * (points - points.mean(0)).var()
  kernel = lambda x, y: np.exp(-((x - y)**2).sum() / scale)
  matrix = np.array([[kernel(x, y) for y in points] for x in points]) + 0.03 * np.eye(len(points))
  between, share = np.array([[kernel(x, y) for y in points] for x in others]), 1 / 3
  scores = np.stack([
      share + between @ np.linalg.inv(matrix) @ ((labels == c) - share) for c in range(3)], -1)
  assert classification.kernel_ridge(points, labels, others).tolist() == scores.argmax(-1).tolist()


def test_good_samples_teach_what_real_ones_do():
  real, truth = rings(100, seed=3)
  score = lambda samples, labels: classification.classification_accuracy_score(samples, labels, real, truth)
  assert score(*rings(60)) > 0.98
  points, labels = rings(60)
  rng = np.random.default_rng(0)
  assert abs(score(points, rng.permutation(labels)) - 0.5) < 0.15, "labels of chance teach nothing"
  assert score(points, np.where(labels == "ring 0", "ring 1", "ring 0")) < 0.02, "swapped ones teach the opposite"


def test_samples_that_are_all_recognised_may_teach_little():
  """Those that show one way of being of a class: a classifier of real ones is sure of each."""
  points, labels = rings(100)
  collapsed, theirs = points[[0, 100]].repeat(20, 0), labels[[0, 100]].repeat(20)
  real, truth = rings(100, seed=3)
  assert np.mean(classification.kernel_ridge(points, labels, collapsed) == theirs) == 1
  assert classification.classification_accuracy_score(collapsed, theirs, real, truth) < 0.9


def test_gaussians_of_each_class():
  vectors, labels = blobs(400, apart=4.0)
  drawn, theirs = classification.class_gaussians(vectors, labels, 500, rank=4, seed=1)
  assert drawn.shape == (1500, 4) and np.unique(theirs, return_counts=True)[1].tolist() == [500] * 3
  for label in range(3):
    real, made = vectors[labels == label], drawn[theirs == label]
    np.testing.assert_allclose(made.mean(0), real.mean(0), atol=0.2)
    np.testing.assert_allclose(np.cov(made.T), np.cov(real.T), atol=0.25)
  again, _ = classification.class_gaussians(vectors, labels, 500, rank=4, seed=1)
  other, _ = classification.class_gaussians(vectors, labels, 500, rank=4, seed=2)
  assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)
  real, truth = blobs(200, seed=9, apart=4.0)
  assert classification.classification_accuracy_score(drawn, theirs, real, truth) > 0.9


@pytest.mark.parametrize("rank", [0, 1, 2, 9])
def test_gaussians_have_as_many_directions_as_asked_for(rank):
  vectors, labels = blobs(50)
  drawn, theirs = classification.class_gaussians(vectors, labels, 30, rank)
  for label in range(3):
    deviations = drawn[theirs == label] - vectors[labels == label].mean(0)
    assert np.linalg.matrix_rank(deviations, tol=1e-6) == min(rank, 4)


def test_squared_distances():
  one, other = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [3, 4], [6, 8]])
  assert classification.squared_distances(one, other).tolist() == [[0, 25, 100], [25, 0, 25]]
