"""`gpt4x cache` as a user runs it."""

import json
import os
import time

import pytest

from gpt4x import cli
from gpt4x.data import prepared

DAY = 24 * 3600


@pytest.fixture(name="root", autouse=True)
def _root(tmp_path, monkeypatch):
  """A data directory with two stores, one of them not used for ten days."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
  for name, age in (("old-train-0123", 10 * DAY), ("new-train-4567", 0)):
    with prepared.unfinished(tmp_path / "tokens" / name) as folder:
      (folder / "tokens.bin").write_bytes(bytes(2_000_000))
      (folder / "spec.json").write_text(json.dumps({"name": f"{name[:3]}/train"}))
      for file in (*folder.iterdir(), folder):
        os.utime(file, (time.time() - age, time.time() - age))
  return tmp_path


def run(capsys, *flags):
  status = cli.main(["cache", *flags])
  captured = capsys.readouterr()
  return status, captured.out.splitlines(), captured.err


def names(root):
  return sorted(path.name for path in (root / "tokens").iterdir())


def test_lists(root, capsys):
  status, lines, _ = run(capsys)
  today, then = (prepared.day_of(time.time() - age) for age in (0, 10 * DAY))
  assert status == 0 and [line.split() for line in lines] == [
      ["NAME", "MADE", "LAST", "USED", "SIZE", "SPLIT"],
      ["new-train-4567", today, today, "2", "MB", "new/train"], ["old-train-0123", then, then, "2", "MB", "old/train"],
      ["2", "entries,", "4", "MB,", "in", str(root)]]
  assert names(root) == ["new-train-4567", "old-train-0123"]


@pytest.mark.parametrize("flags, left", [
    (["--remove=new-*"], ["old-train-0123"]), (["--remove=*"], []),
    (["--remove=*", "--older_than=9"], ["new-train-4567"]),
    (["--older_than=9"], ["new-train-4567", "old-train-0123"]), (["--remove=new-train-4567"], ["old-train-0123"])])
def test_removes_what_is_named_and_old(root, capsys, flags, left):
  status, lines, _ = run(capsys, *flags)
  assert status == 0 and names(root) == left
  assert lines[-1].startswith("removed ") == any("remove" in flag for flag in flags)


@pytest.mark.parametrize("flags", [["--remove=newer-*"], ["--remove=*", "--older_than=11"], ["--older_than=11"]])
def test_nothing_there_is_an_error(root, capsys, flags):
  status, _, error = run(capsys, *flags)
  assert status == 1 and error.startswith(f"gpt4x: error: nothing in {root} is called") and error.count("\n") == 1
  assert len(names(root)) == 2


def test_an_empty_data_directory_is_none(root, capsys, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(root / "nowhere"))
  assert run(capsys)[0] == 0 and not (root / "nowhere").exists()
