"""What the benchmark of annotation counts, on features that are known; no model is trained here."""

import numpy as np
import pytest

from benchmarks.posttraining import annotation
from tests.evaluation.test_classification import blobs

POOL = 240


@pytest.fixture(name="blobs", autouse=True)
def _blobs(monkeypatch):
  """Features and labels of a pool and a test set, and few labels to choose."""
  for name, value in {"STARTS": 1, "ROUND": 6, "LABELS": 30}.items():
    monkeypatch.setattr(annotation, name, value)
  points, labels = blobs(120, apart=4.0, dims=5)
  order = np.random.default_rng(0).permutation(360)
  return points[order], labels[order]


def test_as_many_labels_are_chosen_as_are_taken_by_chance(blobs, monkeypatch):
  """From the same beginning, none twice, and none of the test set."""
  judged, real = [], annotation.accuracy
  monkeypatch.setattr(annotation, "accuracy", lambda *given: judged.append(given[-1]) or real(*given))
  found = annotation.measured(*blobs, POOL, seed=0)
  chosen, by_chance = judged
  assert len(set(chosen)) == len(set(by_chance)) == 30 and max(*chosen, *by_chance) < POOL
  assert chosen[:6].tolist() == by_chance[:6].tolist() and sorted(blobs[1][chosen[:6]]) == [0, 0, 1, 1, 2, 2]
  assert set(chosen[6:]) != set(by_chance[6:])
  assert found["chosen"] > 85 and found["chance"] > 85


def test_planted_errors_are_counted(blobs):
  found = annotation.errors_found(*blobs, np.random.default_rng(0))
  assert found["f1"] > 60 and found["f1"] == pytest.approx(
      2 * found["precision"] * found["recall"] / (found["precision"] + found["recall"]))
  assert found["plain_recall"] >= found["recall"], "whoever suspects must find another label likelier"
  wrong = np.array([True, True, False, False, False])
  assert annotation.judged(np.array([True, False, True, True, False]), wrong) == {
      "precision": pytest.approx(100 / 3), "recall": 50, "f1": pytest.approx(40)}
  assert annotation.judged(np.zeros(5, bool), wrong) == {"precision": 0, "recall": 0, "f1": 0}


def test_rows():
  found = [{"chosen": 80.0 + i, "chance": 78.0, **dict.fromkeys((
      "f1", "precision", "recall", "plain_f1", "plain_precision", "plain_recall"), 60.0)} for i in range(3)]
  gain, accuracy, f1, *_ = rows = list(annotation.summarized(found))
  assert (gain.value, gain.met, gain.name) == (3, True, "posttraining/annotation_gain") and gain.error > 0
  assert (accuracy.value, accuracy.peer) == (81, 78) and f1.met and len(rows) == 5
  worse = [one | {"chosen": 78.0, "f1": 50.0} for one in found]
  gain, _, f1, *_ = annotation.summarized(worse)
  assert gain.met is False and f1.met is False
  pixels = list(annotation.summarized(worse, "_pixels"))
  assert [row.name for row in pixels] == [f"posttraining/{name}_pixels" for name in (
      "annotation_accuracy", "label_errors_f1", "label_errors_precision", "label_errors_recall")]
  assert {row.met for row in pixels} == {None}
