"""Reading while another process trains, and checkpoints that are not where they belong."""

import json
import shutil
import zlib

import pytest

from gpt4x.checkpoints import integrity, layout
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from tests.checkpoints.states import abstract, assert_same, CONFIG, make_state, save_steps

PARAMS = abstract(make_state().params)


def interrupted(monkeypatch, where, name, happens):
  """Lets something happen once, right before a function is called."""
  function, left = getattr(where, name), [happens]

  def wrapper(*arguments):
    if left:
      left.pop()()
    return function(*arguments)

  monkeypatch.setattr(where, name, wrapper)


@pytest.mark.parametrize("where, name", [
    (integrity, "read_record"), (integrity, "verify"), (layout, "read")], ids=["record", "checksums", "arrays"])
@pytest.mark.parametrize("keep_period", [None, 1])
def test_a_checkpoint_that_is_retired_while_it_is_read(saved, tmp_path, monkeypatch, capsys, where, name, keep_period):
  """The reader takes the one that came meanwhile, though an older one may be there for good."""
  model_dir = shutil.copytree(saved, tmp_path / "run")

  def train():
    monkeypatch.undo()
    save_steps(model_dir, 3, keep=1, keep_period=keep_period)
    shutil.rmtree(model_dir / "checkpoints" / "2", ignore_errors=True)

  interrupted(monkeypatch, where, name, train)
  step, params = Checkpoints(str(model_dir)).restore_params(PARAMS)
  assert step == 3 and capsys.readouterr().err == ""
  assert_same(params, make_state(3).params)


def test_the_step_asked_for_is_retired_while_it_is_read(saved, tmp_path, monkeypatch):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  interrupted(monkeypatch, integrity, "verify", lambda: save_steps(model_dir, 3, keep=1))
  with pytest.raises(UserError, match=r"no checkpoint of step 2 .* the steps there are \[3\]"):
    Checkpoints(str(model_dir)).restore_params(PARAMS, 2)


def test_who_reads_is_not_told_to_move_what_another_writes(saved, tmp_path):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  for path in model_dir.rglob("checkpoint.json"):
    path.unlink()
  for step in (None, 2):
    with pytest.raises(UserError, match="damaged") as error:
      Checkpoints(str(model_dir)).restore_params(PARAMS, step)
    assert "move" not in str(error.value)


def test_a_checkpoint_under_another_name(saved, tmp_path):
  """A copy of step 2 as step 99 would go on at 99 with the data of 2."""
  model_dir = shutil.copytree(saved, tmp_path / "run")
  shutil.copytree(model_dir / "checkpoints" / "2", model_dir / "checkpoints" / "99")
  for writes in (None, CheckpointConfig()):
    with pytest.raises(UserError, match="checkpoints/99 is a checkpoint of step 2 under another name: rename") as error:
      Checkpoints(str(model_dir), writes).restore(abstract(make_state()))
    assert "\n" not in str(error.value)
    assert Checkpoints(str(model_dir)).restore_params(PARAMS, 2)[0] == 2


def test_a_record_of_an_earlier_version_has_no_step(saved, tmp_path):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  path = model_dir / "checkpoints" / "2" / "checkpoint.json"
  record = json.loads(path.read_text())["record"]
  assert record.pop("step") == 2
  path.write_text(json.dumps({"crc32": zlib.crc32(json.dumps(record, sort_keys=True).encode()), "record": record}))
  step, state, _ = Checkpoints(str(model_dir)).restore(abstract(make_state()))
  assert step == 2
  assert_same(state, make_state(2))


def test_going_back(saved, tmp_path, capsys):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  writer = Checkpoints(str(model_dir), CheckpointConfig())
  for aside in ("2.aside", "2.aside1"):
    writer.go_back(2)
    assert writer.steps() == [1, 2] and not (model_dir / "checkpoints" / aside).exists()
    writer.go_back(1)
    assert writer.steps() == [1] and (model_dir / "checkpoints" / aside / "checkpoint.json").exists()
    assert f"checkpoint 2 is kept as {aside}" in capsys.readouterr().err
    writer.save(2, make_state(2), {}, CONFIG, seed=3, wait=True)
  writer.close()


@pytest.mark.parametrize("what", ["a file", "the folder"])
def test_what_may_not_be_read_is_not_missing(saved, monkeypatch, what):
  """As the system answers one who lacks permission: nothing is there, and it cannot be opened."""
  writer = Checkpoints(str(saved), CheckpointConfig())
  path_type, denied = type(writer._directory), PermissionError(13, "Permission denied")

  def deny(self, *arguments, **keywords):
    raise denied

  monkeypatch.setattr(path_type, "exists", lambda self: False)
  if what == "a file":
    monkeypatch.setattr(path_type, "open", deny)
  else:
    monkeypatch.setattr(path_type, "iterdir", deny)
  with pytest.raises(UserError, match="cannot be read .permission denied"):
    writer.restore(abstract(make_state()))
  monkeypatch.undo()
  assert writer.steps() == [1, 2]
