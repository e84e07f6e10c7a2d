"""metrics.jsonl is exact and survives a kill; progress reads well without a terminal."""

import contextlib
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.training.metrics import MetricsWriter, Progress, read_metrics


def test_lines_are_exact(tmp_path):
  writer = MetricsWriter(str(tmp_path))
  writer.write(1, "train", {"loss": jnp.float32(0.1), "tokens": 128, "lr": 1e-5})
  writer.write(np.int64(2), "validation", {"loss": np.float32(0.1), "bits_per_byte": float("nan")})
  one, two = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(one) == {"step": 1, "split": "train", "loss": float(np.float32(0.1)), "tokens": 128, "lr": 1e-5}
  assert json.loads(two) == {"step": 2, "split": "validation", "loss": float(np.float32(0.1)), "bits_per_byte": None}
  assert '"loss": 0.10000000149011612,' in one and '"loss": 0.10000000149011612,' in two
  assert read_metrics(str(tmp_path)) == [json.loads(one), json.loads(two)]
  assert np.float32(read_metrics(str(tmp_path))[0]["loss"]) == np.float32(0.1)


def test_truncate(tmp_path):
  writer = MetricsWriter(str(tmp_path))
  writer.truncate(5)  # Nothing there yet.
  for step in range(1, 9):
    writer.write(step, "train", {"loss": 1.0 / step})
  whole = (tmp_path / "metrics.jsonl").read_text()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "spl')  # Killed while writing.
  assert len(read_metrics(str(tmp_path))) == 8
  writer.truncate(5)
  assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2, 3, 4, 5]
  for step in range(6, 9):
    writer.write(step, "train", {"loss": 1.0 / step})
  assert (tmp_path / "metrics.jsonl").read_text() == whole
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("damage", [
    b"\n", b"   \n", b'{"step": 3, "spl\n', b"\0\0\0\n", b"\xff\xfe\n", b"3\n", b"[]\n", b"null\n", b'{"loss": 1.0}\n',
    b'{"step": "3", "split": "train"}\n', b'{"step": 3, "split": null}\n'])
def test_a_damaged_line_is_passed_over(tmp_path, capsys, damage):
  """With a warning that names file and line, by all who read; a run that goes on leaves it out of the file."""
  writer = MetricsWriter(str(tmp_path))
  for step in (1, 2, 3):
    writer.write(step, "train", {"loss": 1.0})
  path = tmp_path / "metrics.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(lines[0] + damage + b"".join(lines[1:]))
  warning = f"gpt4x: warning: line 2 of {path} is no line of metrics and is left out\n"
  assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2, 3]
  assert capsys.readouterr().err == warning
  assert writer.has(3, "train") and not writer.has(3, "validation") and not writer.has(4, "train")
  capsys.readouterr()
  writer.truncate(2)
  assert capsys.readouterr().err == warning
  assert path.read_bytes() == b"".join(lines[:2])


def test_a_directory_that_cannot_be_written(tmp_path):
  with pytest.raises(UserError, match="metrics.jsonl cannot be written .No such file"):
    MetricsWriter(str(tmp_path / "missing")).write(1, "train", {"loss": 1.0})


def test_progress_without_a_terminal(capsys):
  with contextlib.closing(Progress(total_steps=100, start_step=20)) as progress:
    for step in range(21, 101):
      progress.update(step, loss=1.5, tokens_per_second=12345.6)
    progress.print("validation loss [1.25]")
  first, last, text = capsys.readouterr().err.splitlines()  # Not a line a step.
  assert first == "step 21/100, loss 1.5000, 12,346 tokens/s"  # One step done tells nothing of the time left.
  assert last.startswith("step 100/100") and last.endswith("0:00:00 left")
  assert text == "validation loss [1.25]"


def test_progress_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  with contextlib.closing(Progress(total_steps=100)) as progress:
    progress.update(50, loss=1.5, tokens_per_second=10.0)
    progress.print("validation loss [1.25]")
  shown = capsys.readouterr()
  assert "50/100" in shown.err and "loss 1.5000, 10 tokens/s" in shown.err and "validation loss [1.25]" in shown.err
  assert not shown.out
