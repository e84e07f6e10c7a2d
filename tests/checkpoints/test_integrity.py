"""Damaged checkpoints are found, passed over and kept; a store that cannot be reached is not damage."""

import json
import pathlib
import shutil

from etils import epath
import jax
import pytest

from gpt4x import storage
from gpt4x.checkpoints import integrity
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from gpt4x.launch import agreement
from tests.checkpoints.states import abstract, assert_same, CONFIG, DATA, make_state


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, pathlib.Path.unlink])
def test_falls_back_from_a_damaged_checkpoint(saved, tmp_path, capfd, damage):
  wanted = abstract(make_state())
  files = sorted(path.relative_to(saved) for path in (saved / "checkpoints" / "2").rglob("*") if path.is_file())
  assert len(files) > 10
  for number, file in enumerate(files):
    model_dir = shutil.copytree(saved, tmp_path / str(number))
    damage(model_dir / file)
    writer = Checkpoints(str(model_dir), CheckpointConfig())
    step, state, data_state = writer.restore(wanted)
    warnings = capfd.readouterr().err
    if file.name in ("_CHECKPOINT_METADATA", "commit_success.txt") and file.parent.name == "2":
      assert step == 2 and not warnings  # Orbax's own notes; nothing is read from them.
    else:
      assert step == 1 and warnings.count("\n") == 1
      assert "2 is damaged" in warnings and "using step 1" in warnings and "2.damaged" in warnings
      assert (model_dir / "checkpoints" / "2.damaged").exists() and writer.steps() == [1]
    assert_same(state, make_state(step))
    assert data_state == DATA | {"epoch": step}
    shutil.rmtree(model_dir)


def test_finds_a_changed_data_position(saved, tmp_path):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  path = model_dir / "checkpoints" / "2" / "checkpoint.json"
  changed = path.read_text().replace('"rows": [[5, 17]', '"rows": [[5, 16]')
  assert changed != path.read_text()
  path.write_text(changed)
  assert Checkpoints(str(model_dir)).restore(abstract(make_state()))[0] == 1


def test_saves_again_at_the_step_of_a_damaged_checkpoint(saved, tmp_path, capsys):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  for aside in ("2.damaged", "2.damaged1"):
    flip_a_bit(next((model_dir / "checkpoints" / "2" / "params").rglob("_METADATA")))
    reader = Checkpoints(str(model_dir))
    assert reader.restore(abstract(make_state()))[0] == 1 and reader.steps() == [1, 2]  # Readers move nothing.
    with pytest.raises(UserError, match="2 is damaged"):
      reader.restore(abstract(make_state()), 2)
    writer = Checkpoints(str(model_dir), CheckpointConfig())
    assert writer.restore(abstract(make_state()))[0] == 1
    writer.save(2, make_state(2), DATA, CONFIG, seed=0)
    writer.close()
    assert (model_dir / "checkpoints" / aside).exists() and writer.steps() == [1, 2]
    assert writer.restore(abstract(make_state()))[0] == 2
  assert "cannot" not in capsys.readouterr().err


def test_every_checkpoint_damaged(saved, tmp_path):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  for path in model_dir.rglob("checkpoint.json"):
    path.unlink()
  for _ in range(2):  # The second start must not take the directory for a new run either.
    with pytest.raises(UserError, match="every checkpoint in .* is damaged .*checkpoint.json is missing"):
      Checkpoints(str(model_dir), CheckpointConfig()).restore(abstract(make_state()))


def test_an_unreachable_store_is_not_damage(saved, monkeypatch):
  def unreachable(path):
    raise OSError(5, "Input/output error", str(path))
  monkeypatch.setattr(storage, "size_and_crc", unreachable)
  with pytest.raises(UserError, match="cannot be read .input/output error"):
    Checkpoints(str(saved), CheckpointConfig()).restore(abstract(make_state()))
  assert Checkpoints(str(saved)).steps() == [1, 2]


@pytest.mark.parametrize("index", [0, 1])
def test_processes_wait_for_each_other_around_setting_aside(saved, tmp_path, monkeypatch, index):
  """Nobody moves what another still reads, and nobody goes on before it is moved."""
  model_dir = shutil.copytree(saved, tmp_path / "run")
  directory = model_dir / "checkpoints"
  truncate(directory / "2" / "checkpoint.json")
  writer = Checkpoints(str(model_dir), CheckpointConfig())
  read_text = type(writer._directory).read_text
  events = []
  listing = lambda: sorted(path.name for path in directory.iterdir())

  def exchange(value):
    if not value:  # No problem found in a file.
      return [value]
    events.append(("barrier", listing()))
    if index == 1 and len(events) == 4:  # Meanwhile process 0 has come by.
      (directory / "2").rename(directory / "2.damaged")
    return [value]

  def read(path, *arguments, **keywords):
    events.append(("read", path.parent.name))
    return read_text(path, *arguments, **keywords)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: index)
  monkeypatch.setattr(agreement, "exchange", exchange)
  monkeypatch.setattr(type(writer._directory), "read_text", read)
  assert writer.config_text() == CONFIG  # Read from step 1.
  before, after = ["1", "2"], ["1", "2.damaged"]
  assert events == [("read", "2"), ("read", "1"), ("barrier", before), ("barrier", before if index else after)]
  assert listing() == after and writer.steps() == [1]


def test_a_record_holds_its_own_checksum(tmp_path):
  directory = epath.Path(tmp_path)
  (directory / "state").mkdir()
  (directory / "state" / "data").write_bytes(b"numbers")
  record = {"seed": 3, "config": CONFIG, "data_state": {}, "leaves": {"params/x": ["float32", [2, 3]]}}
  integrity.write_record(directory, record, ("state",))
  assert integrity.read_record(directory) == record | {"files": {"state/data": [7, 0x779ecaf9]}}
  content = json.loads((directory / "checkpoint.json").read_text())
  content["record"]["seed"] = 4
  (directory / "checkpoint.json").write_text(json.dumps(content))
  with pytest.raises(integrity.Damaged, match="checkpoint.json has been altered"):
    integrity.read_record(directory)


@pytest.mark.parametrize("name, value", [
    ("seed", None), ("seed", "3"), ("config", 3), ("data_state", []), ("leaves", 3), ("leaves", {"x": ["float32"]}),
    ("leaves", {"x": ["float32", [float("inf")]]}), ("files", -0.5), ("files", {"x": [196]}),
    ("files", {"x": ["\n", 1]})])
def test_a_record_of_another_kind_is_damage(tmp_path, name, value):
  """Its checksum may be right: whoever makes a record makes that too."""
  record = {"seed": 3, "config": CONFIG, "data_state": {}, "leaves": {}, "files": {}, name: value}
  content = {"crc32": integrity._crc32_of_json(record), "record": record}
  (tmp_path / "checkpoint.json").write_text(json.dumps(content))
  with pytest.raises(integrity.Damaged, match=f"has no {name}"):
    integrity.read_record(epath.Path(tmp_path))


def test_a_record_nested_too_deeply_is_damage(tmp_path):
  (tmp_path / "checkpoint.json").write_text("[" * 100_000)
  with pytest.raises(integrity.Damaged):
    integrity.read_record(epath.Path(tmp_path))
