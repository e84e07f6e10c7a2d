"""Labels by people and a model together, on Fashion-MNIST: what choosing pays, and which wrong labels are found.

A decoder of half a million parameters learns the 1,800 training images, shrunk to 14 x 14 pixels, each pixel a token,
in 400 steps and without a label (some three minutes of a core). Its hidden states are the features that `gpt4x
annotate` has. 2,000 test images, which nothing has seen, judge the labels.

  annotation_gain      points of test accuracy with 200 labels of which all but 20 were chosen, 20 at a time, by
                       `evaluation.annotation`, over 200 labels of which all but the same 20 were taken by chance;
                       each seed is another decoder, and a mean over five beginnings of two images of each class
  annotation_accuracy  the accuracy itself in per cent, beside that by chance; `_pixels`, here and below, has all
                       pixels as features in the model's place
  label_errors_f1      F1 of suspects in per cent where a tenth of the 1,800 labels were exchanged for any other; the
                       peer suspects whatever the probe would label otherwise. `_precision` and `_recall` likewise

    python -m benchmarks.posttraining.annotation --data=DIR [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import data, runs

TEST, STARTS = 2000, 5
PER_CLASS, ROUND, LABELS = 2, 20, 200
WRONG = 0.1
MODEL: dict[str, Any] = {
    "MediaTokens.image_size": 14, "MediaTokens.sizes": 14, "TASK_FEATURE_LENGTHS": {"targets": 215},
    "TransformerConfig.memory_length": 0, "TransformerConfig.eval_memory_length": 0, "EVAL_PERIOD": None,
    "TRAIN_STEPS": 400, "CHECKPOINT_PERIOD": 400}


def rows(bench: runs.Bench) -> Iterator[Row]:
  sets = {split: data.fashion(bench.source, split) for split in ("train", "test")}
  sets["test"] = tuple(one[:TEST] for one in sets["test"])
  for split, (pixels, _) in sets.items():
    data.write_images(bench.folder, split, pixels, [{}] * len(pixels))
  labels = np.concatenate([sets[split][1] for split in sets]).astype(int)
  pool = len(sets["train"][1])

  def measure(seed: int) -> dict[str, float]:
    run = bench.train(f"run{seed}", "experiments/pixels_tiny.gin", **MODEL, **bench.files(), SEED=seed)
    features = bench.call(states, run, [str(bench.folder / f"{split}.jsonl") for split in sets])
    return bench.call(measured, features, labels, pool, seed)

  yield from summarized(bench.each_seed(measure))
  pixels = np.concatenate([sets[split][0].reshape(-1, 784) for split in sets]).astype(np.float32)
  of_pixels = bench.each_seed(lambda seed: bench.call(measured, pixels, labels, pool, seed))
  yield from summarized(of_pixels, "_pixels")


def summarized(found: Sequence[dict[str, float]], suffix: str = "") -> Iterator[Row]:
  """The rows of what was measured with each seed; with a suffix they are for information."""
  mean = lambda name: quickstart.mean_and_error([one[name] for one in found])
  if not suffix:
    gain, error = quickstart.mean_and_error([one["chosen"] - one["chance"] for one in found])
    yield Row("posttraining/annotation_gain", gain, "points", error=error, goal="value > 0")
  (value, error), (chance, _) = mean("chosen"), mean("chance")
  yield Row(f"posttraining/annotation_accuracy{suffix}", value, "%", chance, value / chance, error=error)
  for name in ("f1", "precision", "recall"):
    (value, error), (plain, _) = mean(name), mean(f"plain_{name}")
    yield Row(f"posttraining/label_errors_{name}{suffix}", value, "%", plain, value / plain, error=error,
              goal="ratio >= 1.0" if name == "f1" and not suffix else "")


def states(run: str, files: Sequence[str]) -> np.ndarray:
  """The features of all records of the files, [n, F], by the command's own functions."""
  import argparse

  from gpt4x.commands import annotate, reading
  from gpt4x.media import labelled_records
  records = [one for file in files for one in labelled_records.read(file, "label", "")]
  return annotate.features(argparse.Namespace(model_dir=run, step=None), reading.saved_experiment(run, data=False),
                           records)[1]


def measured(features: np.ndarray, labels: np.ndarray, pool: int, seed: int) -> dict[str, float]:
  """What labels that were chosen are worth and those by chance, and what is found of planted errors; in per cent."""
  accuracies = []
  for start in range(STARTS):
    rng = np.random.default_rng([seed, start])
    order = rng.permutation(pool)
    first = np.concatenate([order[labels[order] == one][:PER_CLASS] for one in np.unique(labels)])
    by_chance = np.concatenate([first, order[~np.isin(order, first)]])[:LABELS]
    accuracies.append([accuracy(features, labels, pool, one) for one in (
        chosen(features[:pool], labels[:pool], first), by_chance)])
  by_choice, chance = 100 * np.mean(accuracies, 0)
  return {"chosen": float(by_choice), "chance": float(chance),
          **errors_found(features[:pool], labels[:pool], np.random.default_rng(seed))}


def chosen(features: np.ndarray, labels: np.ndarray, first: np.ndarray) -> np.ndarray:
  """The images that a person has labelled in the end, who begins with `first`."""
  from gpt4x.evaluation import annotation
  names, number = list(map(str, range(len(labels)))), labels.max() + 1
  while len(first) < LABELS:
    known = np.where(np.isin(np.arange(len(labels)), first), labels, -1)
    found = annotation.annotate(features, known, names, number, review=min(ROUND, LABELS - len(first)))
    first = np.concatenate([first, found.review])
  return first


def accuracy(features: np.ndarray, labels: np.ndarray, pool: int, known: np.ndarray) -> float:
  """The share of test images that get their label from so many others."""
  from gpt4x.evaluation import annotation
  given = np.where(np.isin(np.arange(len(labels)), known), labels, -1)
  found = annotation.annotate(features, given, list(map(str, range(len(labels)))), labels.max() + 1, review=0)
  return float(np.mean(found.probabilities.argmax(-1)[pool:] == labels[pool:]))


def errors_found(features: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
  """Precision, recall and F1 of suspects, and of labels that the probe would give otherwise (`plain_`)."""
  from gpt4x.evaluation import annotation
  number = labels.max() + 1
  wrong = np.zeros(len(labels), bool)
  wrong[rng.choice(len(labels), round(WRONG * len(labels)), replace=False)] = True
  given = np.where(wrong, (labels + rng.integers(1, number, len(labels))) % number, labels)
  found = annotation.annotate(features, given, list(map(str, range(len(labels)))), number)
  suspects = np.isin(np.arange(len(labels)), found.suspects)
  return {**judged(suspects, wrong), **{f"plain_{name}": value for name, value in judged(
      found.probabilities.argmax(-1) != given, wrong).items()}}


def judged(found: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
  hits = int(np.sum(found & wrong))
  found, wrong = int(found.sum()), int(wrong.sum())
  return {"precision": 100 * hits / max(found, 1), "recall": 100 * hits / max(wrong, 1),
          "f1": 200 * hits / max(found + wrong, 1)}


if __name__ == "__main__":
  runs.main(rows)
