"""Checkpoints come back exact, on any layout; damaged ones are passed over and kept; failures are one clear line."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pathlib
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
import numpy as np
import optax
import pytest

from gpt4x.errors import UserError
from gpt4x.training import checkpoints
from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints

DATA = {"rows": [[5, 17], [6, 0]], "epoch": 1}
CONFIG = "train.seed = 3\nNAME = 'π'\n"


class State(NamedTuple):
  step: Any
  params: Any
  opt_state: Any
  memory: Any


def make_state(step=1, width=16):
  values = np.random.default_rng(step)
  params = {
      "embedding": {"table": jnp.asarray(values.normal(size=(40, width)), jnp.float32)},
      "decoder": {"layers": {"mlp": {"wi": jnp.asarray(values.normal(size=(2, width, 32)), jnp.float32)}}},
  }
  memory = {"hidden": jnp.asarray(values.normal(size=(2, 8, 4, width)), jnp.bfloat16),
            "none": None, "of_no_length": jnp.zeros((2, 8, 0, width))}
  return State(jnp.int32(step), params, optax.adamw(1e-3).init(params), memory)


def abstract(tree, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree)


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save_steps(model_dir, *steps, **config):
  writer = Checkpoints(str(model_dir), CheckpointConfig(**config))
  for step in steps:
    writer.save(step, make_state(step), DATA | {"epoch": step}, CONFIG, seed=3)
  writer.close()


@pytest.fixture(name="saved", scope="module")
def _saved(tmp_path_factory):
  """A model directory with checkpoints of steps 1 and 2; copy it before changing it."""
  model_dir = tmp_path_factory.mktemp("saved")
  save_steps(model_dir, 1, 2)
  return model_dir


def test_round_trip(saved):
  reader = Checkpoints(str(saved))
  assert reader.steps() == [1, 2] and reader.latest_step() == 2
  for asked, found in ((None, 2), (1, 1)):
    step, state, data_state = reader.restore(abstract(make_state()), asked)
    assert step == found and data_state == DATA | {"epoch": found}
    assert_same(state, make_state(found))
  step, params = reader.restore_params(abstract(make_state().params))
  assert step == 2
  assert_same(params, make_state(2).params)
  assert reader.config_text() == CONFIG
  with pytest.raises(UserError, match=r"no checkpoint of step 7 .*\[1, 2\]"):
    reader.restore(abstract(make_state()), 7)


def test_no_checkpoint_yet(tmp_path):
  reader = Checkpoints(str(tmp_path / "nowhere"))
  assert reader.restore(abstract(make_state())) is None and reader.latest_step() is None
  for call in (reader.config_text, lambda: reader.restore_params(abstract(make_state().params))):
    with pytest.raises(UserError, match="no checkpoint in .*nowhere"):
      call()
  assert not (tmp_path / "nowhere").exists()


def test_saves_the_state_it_was_given_though_its_buffers_are_reused(tmp_path):
  writer = Checkpoints(str(tmp_path), CheckpointConfig(keep=2))
  advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.ones_like(x), tree), donate_argnums=0)
  state = make_state(1)
  with jax.transfer_guard("disallow"):
    for step in (1, 2, 3):
      writer.save(step, state, DATA, CONFIG, seed=0)
      writer.save(step, state, DATA, CONFIG, seed=0)  # Never two of one step.
      state = advance(state)
    writer.wait()
  assert writer.steps() == [2, 3]
  _, restored, _ = writer.restore(abstract(state))
  assert_same(advance(restored), state)
  writer.close()


def test_retention(tmp_path):
  save_steps(tmp_path, 1, 2, 3, 4, 5, keep=1, keep_period=2)
  assert Checkpoints(str(tmp_path)).steps() == [2, 4, 5]


def test_restores_onto_another_mesh(tmp_path):
  devices = np.array(jax.devices())
  if devices.size < 8:
    pytest.skip("needs 8 simulated devices")
  shard = lambda mesh, x: NamedSharding(mesh, PartitionSpec(*mesh.axis_names if x.ndim > 1 else ()))
  layouts = [Mesh(devices.reshape(2, 4), ("data", "tensor")), Mesh(devices[:2].reshape(2, 1), ("fsdp", "tensor"))]
  state = make_state()
  writer = Checkpoints(str(tmp_path), CheckpointConfig())
  sharded = jax.tree.map(lambda x: jax.device_put(x, shard(layouts[0], x)), state)
  writer.save(1, sharded, DATA, CONFIG, seed=0, wait=True)
  for mesh in layouts[1:] + [None]:
    one = SingleDeviceSharding(devices[7])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shard(mesh, x) if mesh else one), state)
    _, restored, _ = writer.restore(wanted)
    assert_same(restored, state)
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted)))
  writer.close()


@pytest.mark.parametrize("change, words", [
    (lambda state: make_state(width=8), ["params/decoder/layers/mlp/wi", "float32[2, 16, 32]", "float32[2, 8, 32]"]),
    (lambda state: state._replace(step=jnp.float32(0)), ["step is int32[]", "float32[]"]),
    (lambda state: state._replace(memory=None), ["memory/hidden is bfloat16[2, 8, 4, 16]", "missing"]),
    (lambda state: state._replace(params=state.params | {"new": state.step}), ["params/new is missing", "int32[]"]),
])
def test_other_shapes(saved, change, words):
  with pytest.raises(UserError) as error:
    Checkpoints(str(saved)).restore(abstract(change(make_state())))
  message = str(error.value)
  assert "\n" not in message and all(word in message for word in words), message
  assert Checkpoints(str(saved)).steps() == [1, 2]


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
  monkeypatch.setattr(checkpoints, "_checksum", unreachable)
  with pytest.raises(UserError, match="cannot be read .input/output error"):
    Checkpoints(str(saved), CheckpointConfig()).restore(abstract(make_state()))
  assert Checkpoints(str(saved)).steps() == [1, 2]


def test_half_written_checkpoints(saved, tmp_path):
  model_dir = shutil.copytree(saved, tmp_path / "run")
  directory = model_dir / "checkpoints"
  shutil.copytree(directory / "2", directory / "3.orbax-checkpoint-tmp")
  (directory / "notes").mkdir()
  writer = Checkpoints(str(model_dir), CheckpointConfig())
  assert writer.restore(abstract(make_state()))[0] == 2
  writer.save(3, make_state(3), DATA, CONFIG, seed=0)
  writer.close()
  assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "3", "notes"]
  assert_same(writer.restore(abstract(make_state()))[1], make_state(3))


# A process that may write files of at most `sys.argv[2]` bytes meets the errors of a full disk.
FULL_DISK = """
import resource, sys
import jax.numpy as jnp, numpy as np
from gpt4x.errors import UserError
from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
state = lambda size: {"step": jnp.int32(0), "params": {"w": jnp.asarray(np.random.default_rng(0).normal(size=size))}}
try:
  checkpoints = Checkpoints(sys.argv[1], CheckpointConfig())
  checkpoints.save(1, state(10), {}, "", 0, wait=True)
  checkpoints.save(2, state(100_000), {}, "", 0)  # The failure is in the background,
  try:
    checkpoints.save(3, state(10), {}, "", 0)  # and the next call reports it.
  except UserError as error:
    print(error)
  checkpoints.save(3, state(10), {}, "", 0, wait=True)
  print(checkpoints.steps())
except UserError as error:
  print(error)
"""


def run_on_a_full_disk(model_dir, size):
  result = subprocess.run([sys.executable, "-c", FULL_DISK, str(model_dir), str(size)], capture_output=True, text=True,
                          env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"})
  assert result.returncode == 0 and not result.stderr, result.stderr
  return result.stdout.splitlines()


def test_full_disk(tmp_path):
  failure, steps = run_on_a_full_disk(tmp_path, 100_000)
  assert "checkpoints/2 was not saved (file too large)" in failure
  assert steps == "[1, 3]"
  assert_same(Checkpoints(str(tmp_path)).restore_params({"w": jax.ShapeDtypeStruct(
      (10,), jnp.float32, sharding=SingleDeviceSharding(jax.devices()[0]))}, 1)[1]["w"],
              jnp.asarray(np.random.default_rng(0).normal(size=10)))
  (failure,) = run_on_a_full_disk(tmp_path / "new", 0)
  assert "model directory" in failure and "cannot be written (file too large)" in failure


def test_model_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").touch()
  for model_dir, words in ((tmp_path / "file", "cannot be written .*: free"),
                           (tmp_path / "file" / "run", "cannot be written .not a directory")):
    with pytest.raises(UserError, match=words):
      Checkpoints(str(model_dir), CheckpointConfig())
  if os.getuid() == 0:  # The superuser writes anywhere.
    return
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match="permission denied"):
    Checkpoints(str(tmp_path / "run"), CheckpointConfig())


def test_config():
  with pytest.raises(UserError, match="CheckpointConfig.keep = 0"):
    CheckpointConfig(keep=0)
