"""What the benchmarks of compression count; no model is trained here."""

import json

import pytest

from benchmarks import quickstart
from benchmarks.compression import distillation


@pytest.mark.parametrize("tokens, seconds", [(2.4, 2.2), (2.1, 2.5)])
def test_the_share_of_the_gap_is_against_the_best_that_the_student_is_alone(monkeypatch, tokens, seconds):
  """In as many seconds: where a run was too short, another of more steps is made."""
  asked = []

  def trained(bench, name, steps, bindings, evaluations=1):
    asked.append(steps)
    if "distilled" in name:
      return 2.0, 20.0
    return (tokens, 10.0) if "tokens" in name else (seconds, steps * (0.09 if len(asked) == 3 else 0.1))

  monkeypatch.setattr(distillation, "trained", trained)
  found = distillation.closed(None, "one", 1.5, 100, {})
  assert asked == [100, 100, 200, round(200 * 1.02 * 20 / 18)]
  share = lambda alone: 100 * (alone - 2.0) / (alone - 1.5)
  assert found.equal_tokens == pytest.approx(share(tokens))
  assert found.equal_seconds == pytest.approx(share(min(tokens, seconds)))


def test_a_teacher_that_is_no_better_leaves_nothing_to_measure(monkeypatch):
  monkeypatch.setattr(distillation, "trained", lambda *arguments, **_: (2.0, 10.0))
  with pytest.raises(RuntimeError, match="leaves no gap"):
    distillation.closed(None, "one", 2.1, 100, {})


def test_the_little_text_is_of_the_training_documents_alone(monkeypatch, tmp_path):
  documents = {"train": [b"%06d" % i * 500 for i in range(90)] + [b"x" * 30_000], "validation": [b"held out"]}
  monkeypatch.setattr(quickstart, "write_corpus", lambda folder: None)
  monkeypatch.setattr(quickstart, "read_corpus", lambda folder, split: list(documents[split]))
  distillation.write(str(tmp_path))
  read = lambda name: [json.loads(line)["text"].encode() for line in (tmp_path / name).read_text().splitlines()]
  assert len(read("train.jsonl")) == 128_000 // 3000 and set(read("train.jsonl")) <= set(documents["train"][:90])
  assert read("validation.jsonl") == documents["validation"]
