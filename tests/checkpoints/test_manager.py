"""Checkpoints come back exact, on any layout; failures to write them are one clear line."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from tests.checkpoints.states import abstract, assert_same, CONFIG, DATA, make_state, save_steps


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
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
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


def test_a_save_asks_the_preemption_service_nothing(tmp_path, monkeypatch):
  """Its questions are the loop's: a step's number among them would set the common stop behind all processes."""
  monkeypatch.setattr(ocp.utils, "reached_preemption", lambda step: pytest.fail("asked"))
  checkpoints = Checkpoints(str(tmp_path), CheckpointConfig())
  for step in (1, 2):
    checkpoints.save(step, make_state(), {}, CONFIG, seed=0)
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]
