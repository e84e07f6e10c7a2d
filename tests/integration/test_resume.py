"""A run that is killed again and again continues as if it never stopped."""

import json

import pytest

from tests.integration import corpus
from tests.integration.faults import FAULTY, finish, start, STRAIGHT, trail


@pytest.fixture(scope="module", name="straight")
def _straight(tmp_path_factory):
  """The trail of 40 steps in one go."""
  folder = tmp_path_factory.mktemp("straight")
  status, stderr = finish(start(STRAIGHT, *corpus.flags(corpus.write(folder / "text"), folder / "run")))
  assert status == 0, stderr
  return folder / "text", trail(folder / "run")


def test_killed_at_any_moment(straight, tmp_path):
  text, expected = straight
  arguments = corpus.flags(text, tmp_path / "run")
  steps = lambda: sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())

  assert finish(start(FAULTY, "SIGKILL", 3, *arguments))[0] == -9  # Before any checkpoint.
  assert steps() == []
  assert finish(start(FAULTY, "SIGKILL-while-saving", 8, *arguments))[0] == -9  # Within the first one.
  assert steps() == [] and list((tmp_path / "run" / "checkpoints").iterdir())
  status, stderr = finish(start(FAULTY, "SIGTERM", 13, *arguments))  # Preempted between two: saves, exits 75.
  assert status == 75 and "saved at step 14 of 40" in stderr
  assert steps() == [8, 14]
  assert finish(start(FAULTY, "SIGKILL", 27, *arguments))[0] == -9
  newest = steps()[-1]
  assert newest in (16, 24)  # The kill may find step 24 on its way to the disk.
  victim = next(path for path in sorted((tmp_path / "run" / "checkpoints" / str(newest) / "state").rglob("d/*")))
  victim.write_bytes(victim.read_bytes()[:-7])  # Truncated besides: falls back to the one before.
  status, stderr = finish(start(STRAIGHT, *arguments))
  assert status == 0, stderr
  assert f"{newest} is damaged" in stderr
  assert (tmp_path / "run" / "checkpoints" / f"{newest}.damaged").exists()
  assert trail(tmp_path / "run") == expected
  assert len([line for line in expected if '"split": "train"' in line]) == 40


def test_continuing_a_finished_run_changes_nothing_and_more_steps_go_on(straight, tmp_path):
  text, expected = straight
  short = corpus.flags(text, tmp_path / "run", TRAIN_STEPS=16)
  assert finish(start(STRAIGHT, *short))[0] == 0
  before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
  assert finish(start(STRAIGHT, "train", f"--model_dir={tmp_path / 'run'}"))[0] == 0  # From the directory alone.
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
  assert finish(start(STRAIGHT, *corpus.flags(text, tmp_path / "run")))[0] == 0
  assert trail(tmp_path / "run") == expected
  assert json.loads(before.splitlines()[0])["split"] == "validation"
