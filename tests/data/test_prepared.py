"""The data directory: who may read it, what killed processes left there, and the list of what it holds."""

import json
import os
import pathlib
import stat
import subprocess
import sys
import time

import pytest

from gpt4x import data
from gpt4x.data import prepared
from gpt4x.errors import UserError


@pytest.fixture(name="root", autouse=True)
def _root(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "deep" / "data"))
  before = os.umask(0o022)
  yield tmp_path / "deep" / "data"
  os.umask(before)


def make(root, name="toy-train-0123", size=100, content="abcd"):
  path = root / "tokens" / name
  with prepared.unfinished(path) as folder:
    (folder / "tokens.bin").write_bytes(bytes(size))
    (folder / "spec.json").write_text(json.dumps({"name": "toy/train", "content": content}))
  return path


def modes(root):
  return {oct(stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_prepared_data_is_private_to_its_user(root, umask):
  os.umask(umask)
  make(root)
  prepared.write_note(root / "content" / "toy", {"name": "toy/train"})
  assert modes(root) == {"0o700", "0o600"}


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o2775, 0o755])
def test_what_is_made_in_a_shared_folder_follows_it(root, mode, umask):
  root.mkdir(parents=True)
  root.chmod(mode)
  os.umask(umask)
  make(root)
  prepared.write_note(root / "content" / "toy", {"name": "toy/train"})
  assert modes(root) == {oct(mode), oct(mode & 0o666)}


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
  monkeypatch.delenv("GPT4X_DATA_DIR")
  monkeypatch.setattr(pathlib.Path, "expanduser", lambda _: (_ for _ in ()).throw(RuntimeError("no home")))
  with pytest.raises(UserError, match="where ~/.cache/gpt4x is, .* no home directory: set GPT4X_DATA_DIR"):
    data.data_dir()


# Leftovers.


def leave(root, owner=None, age=0.0):
  """An unfinished folder as a killed process leaves it."""
  path = root / "tokens" / f"toy-train-0123.{len(list(root.glob('tokens/*')))}.building"
  path.mkdir(parents=True)
  (path / "tokens.bin").write_bytes(bytes(1000))
  if owner is not None:
    (path / "owner.json").write_text(owner if isinstance(owner, str) else json.dumps(owner))
  for file in (*path.iterdir(), path):
    os.utime(file, (time.time() - age, time.time() - age))
  return path


@pytest.fixture(name="dead")
def _dead():
  """The number of a process that has ended."""
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def test_leftovers_of_the_dead_are_removed_and_the_living_are_left_alone(root, dead):
  here = prepared._this_process()
  gone = [leave(root, here | {"pid": dead}), leave(root, age=3 * prepared.DAY),
          leave(root, here | {"pid": dead, "world": ["another machine", "1"]}, age=3 * prepared.DAY),
          leave(root, "{", age=3 * prepared.DAY)]
  left = [leave(root, here), leave(root), leave(root, "[]"), leave(root, here | {"pid": 10**30}),
          # Its number says nothing here: it may live on another host or in another container.
          leave(root, here | {"pid": dead, "world": ["another machine", "1"]}),
          leave(root, here | {"pid": dead, "world": [here["world"][0], "another container"]})]
  make(root)
  assert not [path.name for path in gone if path.exists()]
  assert all(path.exists() for path in left)


def test_an_unfinished_folder_says_whose_it_is(root):
  with prepared.unfinished(root / "tokens" / "toy") as folder:
    assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
    make(root)
    assert folder.exists()
  assert not list(root.glob("tokens/*/owner.json"))


# The list.


def test_list_has_name_split_size_and_days(root):
  store, note = make(root, size=5000), root / "content" / "toy-train-4567"
  prepared.write_note(note, {"name": "toy/validation"})
  (root / "content" / "89ab").write_text("of an earlier version")
  leave(root)
  day = 24 * 3600
  os.utime(store / "tokens.bin", (5 * day, 3 * day))
  os.utime(store / "spec.json", (9 * day, 3 * day))  # Reading it, as this list does, is no use.
  found = {one.path.name: one for one in prepared.find()}
  assert {name: one.what for name, one in found.items()} == {
      "toy-train-0123": "toy/train", "toy-train-0123.1.building": "unfinished", "toy-train-4567": "toy/validation",
      "89ab": "unknown"}
  assert found["toy-train-0123"].size == 5000 + (store / "spec.json").stat().st_size
  assert (found["toy-train-0123"].made, found["toy-train-0123"].used) == (3 * day, 5 * day)
  prepared.note_use(store)
  (again,) = prepared.find("toy-train-0123")
  assert again.made == 3 * day and again.used >= time.time() - day
  os.utime(note, (3 * day, 3 * day))
  assert [one.path.name for one in prepared.find(older_than=1)] == ["toy-train-4567"]
  prepared.note_use(note)
  assert not prepared.find(older_than=1)


def test_removing_takes_one_and_leaves_open_tokens_readable(root):
  path, other = make(root), make(root, "toy-train-9999")
  prepared.write_note(root / "content" / "toy", {"name": "toy/train"})
  with open(path / "tokens.bin", "rb") as file:
    for one in [*prepared.find("toy-train-0*"), *prepared.find("toy")]:
      prepared.remove(one)
    assert len(file.read()) == 100
  assert [one.path for one in prepared.find()] == [other]
