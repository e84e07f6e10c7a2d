"""The figures of a run are those of its metrics."""

import json
import types

import pytest

from gpt4x.errors import UserError
from gpt4x.training import summary
from gpt4x.training.metrics import MetricsWriter

EXPERIMENT = types.SimpleNamespace(
    data=types.SimpleNamespace(modalities=None), dataset=types.SimpleNamespace(batch_size=4, segment_length=8),
    language_model=types.SimpleNamespace(config=types.SimpleNamespace(num_params=lambda: 1234)))


@pytest.fixture(name="write")
def _write(tmp_path, monkeypatch):
  monkeypatch.setattr(summary.compressors, "of_split", lambda model_dir, data, split: {"gzip -9": 1.5})
  return MetricsWriter(str(tmp_path)).write


def test_a_run(tmp_path, write):
  write(0, "validation", {"bits_per_byte": 9.0, "tokens": 20.0, "partial": 1.0})
  for step, speed in ((10, 2.0), (20, 5.0), (30, 4.0)):
    write(step, "train", {"loss": 1.0, "steps_per_second": speed, "tokens_per_second": 32 * speed, "mfu": speed / 10})
  write(25, "train", {"loss": 1.0, "skipped": 1.0})
  write(30, "validation", {"bits_per_byte": 2.0, "tokens": 90.0})
  write(30, "other", {"loss": 1.0})
  (tmp_path / "environment.json").write_text(json.dumps({"hardware": "a chip"}))
  found = summary.summarize(str(tmp_path), EXPERIMENT)
  assert (found.first["bits_per_byte"], found.last["bits_per_byte"], found.baselines) == (9.0, 2.0, {"gzip -9": 1.5})
  assert (found.steps, found.tokens, found.num_params) == (30, 30 * 4 * 8, 1234)
  assert found.seconds == 10 / 2 + 10 / 5 + 10 / 4 and (found.tokens_per_second, found.mfu) == (128.0, 0.4)
  assert found.environment == {"hardware": "a chip"} and len(found.metrics) == 7


@pytest.mark.parametrize("environment", [b"", b"\xff", b"[3]", None])
def test_without_rates_and_environment(tmp_path, write, environment):
  write(0, "validation", {"bits_per_byte": 9.0, "tokens": 20.0})
  if environment is not None:
    (tmp_path / "environment.json").write_bytes(environment)
  found = summary.summarize(str(tmp_path), EXPERIMENT)
  assert found.first is found.last and found.environment == {}
  assert found.seconds is found.tokens_per_second is found.mfu is None


def test_a_run_without_evaluations(tmp_path, write):
  write(1, "train", {"loss": 1.0})
  with pytest.raises(UserError, match="no validation metrics yet: train with EVAL_PERIOD set"):
    summary.summarize(str(tmp_path), EXPERIMENT)


def test_a_run_with_media_is_judged_by_what_it_has(tmp_path, write):
  """By bits per byte before bits per dimension before its loss; compressors are of text alone."""
  media = types.SimpleNamespace(**vars(EXPERIMENT) | {"data": types.SimpleNamespace(modalities=True)})
  write(0, "validation", {"loss": 5.0, "tokens": 20.0})
  write(1, "validation", {"loss": 4.0, "tokens": 20.0})
  found = summary.summarize(str(tmp_path), EXPERIMENT)
  assert (found.measure, found.first["loss"], found.baselines) == ("loss", 5.0, {})
  write(2, "validation", {"loss": 3.0, "bits_per_dim": 4.5, "tokens": 20.0})
  found = summary.summarize(str(tmp_path), media)
  assert (found.measure, found.unit) == ("bits_per_dim", "bits per dimension") and found.first is found.last
  write(3, "validation", {"loss": 3.0, "bits_per_dim": 4.5, "bits_per_byte": 2.0, "tokens": 20.0})
  found = summary.summarize(str(tmp_path), media)
  assert (found.measure, found.baselines) == ("bits_per_byte", {})
