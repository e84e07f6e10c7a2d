"""What is found of records by their features alone."""

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.evaluation import annotation
from gpt4x.media.labelled_records import LabelledRecord
from tests.evaluation.test_classification import blobs


def records(*labels, equal=()):
  """Records of these labels; those of numbers in `equal` have one content."""
  return [LabelledRecord(f"r.jsonl:{i}", {}, ("text",), "same" if i in equal else str(i), label)
          for i, label in enumerate(labels, 1)]


def test_classes_are_those_found_or_named():
  given = records("b", "a", None, "a", "b")
  assert annotation.classes_of(given, None, "label") == ("a", "b")
  assert annotation.classes_of(given, ["b", "a"], "label") == ("b", "a")


@pytest.mark.parametrize("given, named, message", [
    (records(None, None), None, "no record has a label in 'verdict': label at least 2 of each class by hand, or name"),
    (records("a", "a", None), None, "all labels are 'a', and there is nothing to tell apart: label at least 2 records"),
    (records("a", "a", "b"), None, "too few labelled records that differ in content: 1 of 'b': label at least 2 of"),
    (records("a", "b", "b"), ["a", "b", "c"], "in content: 1 of 'a', 0 of 'c': label at least 2 of each class by hand"),
    (records("a", "a", "b", "b", equal=(3, 4)), None, "too few labelled records that differ in content: 1 of 'b'"),
    (records("yes", "yess", "no"), ["yes", "no"], "r.jsonl:2: the label 'yess' is none of --labels: did you mean yes?"),
    (records(*"abcdefgh"), None, "1 of 'd', 1 of 'e' and 3 more: label at least 2"),
])
def test_too_few_labels_are_one_line(given, named, message):
  with pytest.raises(UserError, match=message.replace("?", r"\?")) as raised:
    annotation.classes_of(given, named, "verdict")
  assert "\n" not in str(raised.value)


@pytest.fixture(name="found", scope="module")
def _found():
  """Three blobs of which a fifth are labelled, five of these wrongly; and the truth."""
  points, truth = blobs(100, apart=5.0, dims=6)
  rng = np.random.default_rng(0)
  labels = np.where(rng.random(300) < 0.3, truth, -1)
  wrong = np.flatnonzero(labels >= 0)[::18]
  labels[wrong] = (truth[wrong] + 1) % 3
  features = 1000 * points + 7
  found = annotation.annotate(features, labels, [str(i) for i in range(300)], 3, review=12, seed=1)
  return features, labels, truth, wrong, found


def test_the_rest_is_labelled_and_errors_are_found(found):
  _, labels, truth, wrong, found = found
  rest = labels < 0
  assert np.mean(found.probabilities.argmax(-1)[rest] == truth[rest]) > 0.95
  np.testing.assert_allclose(found.probabilities.sum(-1), 1)
  assert set(wrong) <= set(found.suspects) and len(found.suspects) <= len(wrong) + 2
  assert found.measures["label_errors"] == pytest.approx(len(wrong) / np.sum(~rest), abs=0.04)


def test_what_is_measured_is_out_of_fold(found):
  _, labels, _, _, found = found
  known = labels >= 0
  m = found.measures
  assert m["accuracy"] == np.mean(found.probabilities.argmax(-1)[known] == labels[known])
  assert m["majority"] == np.bincount(labels[known]).max() / known.sum()
  by_itself = -np.mean(np.log(found.probabilities[known, labels[known]]))
  assert by_itself < m["log_loss_calibrated"] < 2 * by_itself, "a temperature judges by other examples than its own"
  assert 0 <= m["ece_calibrated"] <= 1 and 0 <= m["ece"] <= 1


def test_what_is_reviewed_is_unlabelled_uncertain_and_comes_once(found):
  _, labels, _, _, found = found
  assert len(set(found.review)) == 12 and (labels[found.review] < 0).all()
  first, second = np.sort(found.probabilities, -1)[:, :-3:-1].T
  margin = first - second
  assert margin[found.review[0]] == margin[labels < 0].min()
  assert margin[found.review].max() <= np.sort(margin[labels < 0])[4 * 12 - 1]


def test_neither_scale_nor_the_order_of_records_matters(found):
  features, labels, _, _, found = found
  order = np.random.default_rng(0).permutation(300)
  names = [str(i) for i in range(300)]
  again = annotation.annotate(features / 9, labels, names, 3, review=12, seed=1)
  np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-4)
  moved = annotation.annotate(features[order], labels[order], [names[i] for i in order], 3, review=12, seed=1)
  rest = labels[order] < 0
  assert np.mean(np.abs(moved.probabilities - found.probabilities[order])[rest]) < 0.03, "folds differ, and they alone"
  everything = annotation.annotate(features, np.abs(labels), names, 3)
  assert everything.review.size == 0 and (everything.suspects >= 0).all()


def test_what_is_labelled_under_another_line_is_not_reviewed():
  points, truth = blobs(20)
  labels = np.where(np.arange(60) % 2 == 0, truth, -1)
  names = [str(i // 2) for i in range(60)]  # Each unlabelled record is like the labelled one before it.
  assert annotation.annotate(points, labels, names, 3).review.size == 0
  names[-1] = names[-3] = "new"
  assert annotation.annotate(points, labels, names, 3).review.tolist() == [57]
