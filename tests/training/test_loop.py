"""What the loop hands on to those who evaluate."""

import json

from gpt4x import cli
from gpt4x.training import loop
from tests.integration import corpus


def test_the_split_and_the_batches_of_an_evaluation(tmp_path, monkeypatch):
  """Both are other than the defaults, and the lines of metrics.jsonl are those of that split and so many batches."""
  evaluator, task_metrics, told = loop.Evaluator, loop.TaskMetrics, []
  monkeypatch.setattr(loop, "Evaluator", lambda *args: told.append(args[2:]) or evaluator(*args))
  monkeypatch.setattr(loop, "TaskMetrics", lambda *args: told.append(args[1:]) or task_metrics(*args))
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", TRAIN_STEPS=1, EVAL_STEPS=2,
                       train__eval_split="train")
  assert cli.main(flags) == 0
  assert told == [("train", 2), ("train",)]
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert [(line["step"], line["split"], line["tokens"]) for line in lines if "tokens" in line] == [
      (step, "train", 2 * 8 * 16) for step in (0, 1)]
