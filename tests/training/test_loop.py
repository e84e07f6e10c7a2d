"""What the loop hands on to those who evaluate, and what it takes from a run that was begun otherwise."""

import json
import shutil

import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.training import loop
from gpt4x.training.metrics import read_metrics
from tests.integration import corpus


def test_the_split_and_the_batches_of_an_evaluation(tmp_path, monkeypatch):
  """All are other than the defaults, and the lines of metrics.jsonl are those of that split and so many batches."""
  evaluator, task_metrics, told = loop.Evaluator, loop.TaskMetrics, []
  monkeypatch.setattr(loop, "Evaluator", lambda *args: told.append(args[2:]) or evaluator(*args))
  monkeypatch.setattr(loop, "TaskMetrics", lambda *args: told.append(args[1:]) or task_metrics(*args))
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", TRAIN_STEPS=1, EVAL_STEPS=2,
                       train__eval_split="train")
  assert cli.main(flags) == 0
  assert told == [("train",), ("train",)]
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert [(line["step"], line["split"], line["tokens"], line["partial"]) for line in lines if "tokens" in line] == [
      (step, "train", 2 * 8 * 16, 1.0) for step in (0, 1)]


def test_the_last_evaluation_is_of_the_whole_split(tmp_path):
  """Those on the way are of some batches, which are the same ones each time: a run that learns nothing says so."""
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", TRAIN_STEPS=3, EVAL_PERIOD=1, EVAL_STEPS=2,
                       train__whole_final_eval=True, TransformerConfig__dropout_rate=0.0, adamw__learning_rate=0.0)
  assert cli.main(flags) == 0
  found = [line for line in read_metrics(str(tmp_path / "run")) if line["split"] == "validation"]
  assert [line.get("partial") for line in found] == [1.0, 1.0, 1.0, None]
  assert len({(line["tokens"], line["loss"]) for line in found[:3]}) == 1
  documents = reading.saved_experiment(str(tmp_path / "run")).data.documents("validation")
  assert found[-1]["tokens"] == sum(map(len, documents)) > found[0]["tokens"]


@pytest.fixture(scope="module", name="begun")
def _begun(tmp_path_factory):
  """The text, a run of 8 steps, and the losses of a run of 12."""
  folder = tmp_path_factory.mktemp("begun")
  text = corpus.write(folder / "text")
  assert cli.main(corpus.flags(text, folder / "run", TRAIN_STEPS=8, EVAL_PERIOD=None)) == 0
  shutil.copytree(folder / "run", folder / "straight")
  assert cli.main(corpus.flags(text, folder / "straight", TRAIN_STEPS=12, EVAL_PERIOD=None)) == 0
  return text, folder / "run", train_lines(folder / "straight")


def train_lines(model_dir):
  lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
  return [(line["step"], line["loss"], line["learning_rate"]) for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("changes, rate, tolerance", [
    ({"adamw__learning_rate": corpus.Reference("@optimizers.constant()"), "optimizers.constant.value": 0.01}, 0.01, 0),
    (dict(adamw__learning_rate=0.002), 0.002, 0.2),
    (dict(train__clip_norm=None), 0.01, 0.2), (dict(train__clip_norm=1000.0), 0.01, 0.2),
    (dict(TransformerConfig__dtype="bfloat16"), 0.01, 0.2), (dict(adamw__first_moment_dtype="bfloat16"), 0.01, 0.2),
    (dict(train__on_nonfinite="skip"), 0.01, 0),
], ids=["schedule", "number", "unclipped", "clipped", "dtype", "moments", "skip"])
def test_what_may_change_between_two_starts(begun, tmp_path, changes, rate, tolerance):
  """And the learning rate of each step is in its line."""
  text, run, straight = begun
  shutil.copytree(run, tmp_path / "run")
  assert cli.main(corpus.flags(text, tmp_path / "run", TRAIN_STEPS=12, EVAL_PERIOD=None, **changes)) == 0
  found = train_lines(tmp_path / "run")
  assert found[:8] == straight[:8]
  for (step, loss, told), (same, expected, _) in zip(found[8:], straight[8:], strict=True):
    assert step == same and loss == pytest.approx(expected, rel=tolerance, abs=0) and told == pytest.approx(rate)
