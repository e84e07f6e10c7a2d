"""One writer at a time in a model directory, whatever has become of the one before."""

import json
import os
import subprocess
import sys
import time

import pytest

from gpt4x import cli
from gpt4x.errors import UserError
from gpt4x.launch import lock
from tests.integration import corpus


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
  """Nobody waits: what happens meanwhile is for a test to say."""
  monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("waits"))


def meanwhile(monkeypatch, happens=lambda passed: None):
  """Lets time pass for who watches a lock; returns how much has passed."""
  passed = []

  def sleep(seconds):
    passed.append(seconds)
    happens(sum(passed))

  monkeypatch.setattr(lock.time, "sleep", sleep)
  return passed


def owned_by(tmp_path, **changes):
  """The path of a lock, taken by another than this process."""
  other = lock.Lock(str(tmp_path))
  (tmp_path / "train.lock").write_text(json.dumps(other._owner | changes))
  return tmp_path / "train.lock"


def dead_process():
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def test_the_second_is_told_of_the_first_and_changes_nothing(tmp_path, monkeypatch):
  with lock.held(str(tmp_path)):
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    now = time.time()
    monkeypatch.setattr(lock.time, "time", lambda: now + 11 * 60)
    with pytest.raises(UserError) as error, lock.held(str(tmp_path)):
      pytest.fail("two at a time")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
  for words in (str(tmp_path), f"process {os.getpid()} on host {lock.socket.gethostname()}", "for 11 min",
                "stop that run", "--model_dir"):
    assert words in str(error.value)
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
  with lock.held(str(tmp_path)):  # The next one has it.
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]


def test_a_dead_process_of_this_host_holds_nothing(tmp_path):
  owned_by(tmp_path, pid=dead_process())
  with lock.held(str(tmp_path)):
    assert json.loads((tmp_path / "train.lock").read_text())["pid"] == os.getpid()
  assert not list(tmp_path.iterdir())


def test_a_dead_process_that_nobody_has_waited_for(tmp_path):
  zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
  assert zombie.stdout.read() == b""  # It has ended.
  os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
  owned_by(tmp_path, pid=zombie.pid)
  with lock.held(str(tmp_path)):
    pass
  zombie.communicate()


def test_another_process_with_the_same_number_is_another(tmp_path):
  owned_by(tmp_path, started="12345")
  with lock.held(str(tmp_path)):
    pass


ELSEWHERE = {"host": "other", "place": "another boot", "pid": 1}


def test_an_owner_on_another_host_that_shows_no_life(tmp_path, monkeypatch, capsys):
  passed = meanwhile(monkeypatch)
  owned_by(tmp_path, **ELSEWHERE)
  with lock.held(str(tmp_path)):
    assert lock.SILENCE <= sum(passed) < lock.SILENCE + lock.HEARTBEAT
  assert "waiting up to 90 s to see whether process 1 on host other" in capsys.readouterr().err


def test_an_owner_on_another_host_that_lives(tmp_path, monkeypatch):
  other = lock.Lock(str(tmp_path))
  other._owner |= ELSEWHERE
  assert other._create()
  passed = meanwhile(monkeypatch, lambda passed: other._beat() if passed >= lock.HEARTBEAT else None)
  with pytest.raises(UserError, match="process 1 on host other has been writing there"), lock.held(str(tmp_path)):
    pass
  assert sum(passed) == lock.HEARTBEAT


def test_an_owner_on_another_host_that_ends(tmp_path, monkeypatch):
  path = owned_by(tmp_path, **ELSEWHERE)
  meanwhile(monkeypatch, lambda passed: path.unlink())
  with lock.held(str(tmp_path)):
    assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{}", "damaged", "[1]"])
def test_an_owner_without_a_name(tmp_path, monkeypatch, content):
  """It may be about to write it; if it does not, it is dead."""
  (tmp_path / "train.lock").write_text(content)
  passed = meanwhile(monkeypatch)
  with lock.held(str(tmp_path)):
    assert sum(passed) >= lock.SILENCE
  (tmp_path / "train.lock").write_text(content)
  meanwhile(monkeypatch, lambda passed: owned_by(tmp_path))
  with pytest.raises(UserError, match=f"process {os.getpid()} on host"), lock.held(str(tmp_path)):
    pass


def test_two_who_find_a_dead_owner(tmp_path):
  """The second has read the dead one's lock, when the first has just put its own in the place."""
  path = owned_by(tmp_path, pid=dead_process())
  dead = path.read_text()
  first, second = lock.Lock(str(tmp_path)), lock.Lock(str(tmp_path))
  assert first.acquire() == ""
  second._remove(dead)
  assert json.loads(path.read_text())["token"] == first._owner["token"]
  assert "is in use" in second.acquire()
  first.release()
  assert not list(tmp_path.iterdir())


def test_who_stood_still_for_too_long_notices(tmp_path):
  """It writes nothing more, and leaves the lock to its new owner."""
  with lock.held(str(tmp_path)) as first:
    first._beat()
    first.check()
    taken = owned_by(tmp_path, pid=1).read_text()
    first._beat()
    with pytest.raises(UserError, match="was taken over by another run"):
      first.check()
  assert (tmp_path / "train.lock").read_text() == taken


def test_a_lock_that_somebody_has_removed_comes_back(tmp_path):
  with lock.held(str(tmp_path)) as first:
    (tmp_path / "train.lock").unlink()
    first._beat()
    first.check()
    assert (tmp_path / "train.lock").exists()


@pytest.mark.parametrize("command", ["train", "convert"])
def test_commands_that_write(tmp_path, capsys, command):
  """The line comes before anything is changed in the directory."""
  text = corpus.write(tmp_path / "text")
  flags = {"train": corpus.flags(text, tmp_path / "run"),
           "convert": ["convert", "--from=safetensors", f"--input={tmp_path}", f"--model_dir={tmp_path / 'run'}"]}
  with lock.held(str(tmp_path / "run")):
    assert cli.main(flags[command]) == 1
    assert f"process {os.getpid()} on host" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.lock"]


def test_a_mistake_leaves_no_directory(tmp_path):
  with pytest.raises(UserError, match="a mistake"), lock.held(str(tmp_path / "new" / "run")):
    raise UserError("a mistake")
  assert not (tmp_path / "new" / "run").exists()
