"""Processes agree, and say why when they cannot; `tests/integration/test_hosts.py` trains on two."""

import socket

import pytest

from tests.launch.meeting import free_port, meet


def test_two_processes_agree_and_only_the_first_prints():
  (status, out, err), other = meet("""
    print(agreement.exchange(f"of {index}"), file=sys.stderr)
    agreement.check("A = 1")""")
  assert (status, out) == (0, "") and err.strip() == "['of 0', 'of 1']"
  assert other == (0, "", "")


def test_two_that_srun_has_started():
  """Such processes import JAX to find each other, before they part from their parents."""
  port = str(free_port())
  env = lambda index: {
      "SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(index), "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost,other",
      "JAX_COORDINATOR_PORT": port}
  (status, _, err), other = meet("""
    assert processes == clusters.Processes(2, index, f"localhost:{os.environ['JAX_COORDINATOR_PORT']}")
    print(agreement.exchange(f"of {index}"), file=sys.stderr)
    agreement.check("A = 1")""", env=env)
  assert status == 0 and err.strip() == "['of 0', 'of 1']"
  assert other == (0, "", "")


def test_another_configuration():
  results = meet("agreement.check(f'B = 2\\nA = {index}\\n')")
  assert [status for status, *_ in results] == [1, 1]
  # One of them may find the other gone before it has said so itself.
  message = "the configuration of process 1 differs from that of process 0 ('A = 1' against 'A = 0'): start all with"
  assert any(said.startswith(message) for _, said, _ in results)


def test_another_number_of_devices():
  results = meet("agreement.check('A = 1')", devices=(1, 2))
  assert [status for status, *_ in results] == [1, 1]
  message = "the number of devices of process 1 differs from that of process 0 ('2' against '1'): start all with the"
  assert any(said.startswith(message) for _, said, _ in results), results


def test_directory_that_is_not_shared(tmp_path):
  results = meet(f"""
    from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
    Checkpoints({str(tmp_path)!r} + f'/host{{index}}', CheckpointConfig())""")
  assert [status for status, *_ in results] == [1, 1]
  assert any("host" in message and "process 1 cannot see what process 0 writes" in message for _, message, _ in results)
  assert not list(tmp_path.glob("*/checkpoints/.*"))


def test_a_damaged_checkpoint_is_passed_over_by_all(tmp_path):
  results = meet(f"""
    import pathlib, jax, numpy as np
    from jax.sharding import PartitionSpec
    from gpt4x.partitioning import Partitioner
    from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
    model_dir, partitioner = pathlib.Path({str(tmp_path)!r}), Partitioner()
    sharding = jax.NamedSharding(partitioner.mesh, PartitionSpec('data'))
    make = lambda step: {{'params': {{'w': jax.make_array_from_callback(
        (16,), sharding, lambda index: np.arange(16.0, dtype=np.float32)[index] + step)}}}}
    directory = Checkpoints(model_dir, CheckpointConfig())
    for step in (1, 2):
      directory.save(step, make(step), {{'place': step}}, 'A = 1', seed=0)
    directory.close()
    agreement.exchange('saved')
    if index:
      data = [path for path in (model_dir / 'checkpoints' / '2').rglob('d/*') if path.is_file()]
      data[0].write_bytes(b'damage' + data[0].read_bytes()[6:])
    agreement.exchange('damaged')
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(0))
    step, state, data_state = Checkpoints(model_dir, CheckpointConfig()).restore(shapes)
    assert (step, data_state) == (1, {{'place': 1}})
    for shard in state['params']['w'].addressable_shards:
      np.testing.assert_array_equal(shard.data, np.arange(16.0, dtype=np.float32)[shard.index] + 1)""")
  assert [status for status, *_ in results] == [0, 0], results
  assert "is damaged" in results[0][2] and "is damaged" not in results[1][2]
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2.damaged"]


def test_each_process_has_the_rows_of_its_own_devices():
  """On meshes whose batch axes end at processes, lie within them, or are dealt out across them."""
  results = meet("""
    import jax, numpy as np
    from jax.sharding import Mesh
    from gpt4x.partitioning import Partitioner
    rows = np.arange(48).reshape(16, 3)
    counts = set()
    for sizes in ({}, {'data': 4, 'tensor': 2}, {'data': 1, 'tensor': 8}, {'data': 1, 'fsdp': 2, 'tensor': 4}):
      for order in (range(8), (0, 4, 1, 5, 2, 6, 3, 7), (7, 6, 5, 4, 3, 2, 1, 0)):
        partitioner = Partitioner(**sizes)
        devices = np.array(jax.devices())[list(order)].reshape(partitioner.mesh.devices.shape)
        object.__setattr__(partitioner, 'mesh', Mesh(devices, partitioner.mesh.axis_names))
        mine = partitioner.host_rows(16)
        counts.add(len(mine))
        array = partitioner.global_array(rows[list(mine)], 16)
        assert array.shape == rows.shape
        for shard in array.addressable_shards:
          np.testing.assert_array_equal(shard.data, rows[shard.index])
    assert counts == {8, 16}""")
  assert [status for status, *_ in results] == [0, 0], results


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("waiting", ["at a collective", "elsewhere"])
def test_one_is_killed(victim, waiting):
  """The other finds out by a connection that closes, or by heartbeats where it waits for something else."""
  results = meet(f"""
    import jax, numpy as np
    from jax.experimental import multihost_utils
    gather = lambda: multihost_utils.process_allgather(np.ones(1))
    gather()
    if index == {victim}:
      os.kill(os.getpid(), signal.SIGKILL)
    gather() if {waiting == "at a collective"} else agreement.exchange("")""")
  (_, survivor, _), (_, killed, _) = results[1 - victim], results[victim]
  assert [status for status, *_ in results] == [1, 1]
  assert survivor.startswith(f"error: process {1 - victim} of 2: process {victim} is gone;"), results
  assert killed.startswith(f"error: process {victim} of 2: ended by SIGKILL")


def test_nobody_answers():
  [(status, message, _)] = meet(indices=[1], timeout=1)
  assert status == 1 and "process 1 of 2: no answer from process 0 at 127.0.0.1:" in message and "within 1 s" in message


def test_nobody_comes():
  [(status, message, _)] = meet(indices=[0], timeout=1)
  assert status == 1 and "process 0 of 2: not all of 2 processes have come to 127.0.0.1:" in message


def test_port_in_use():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    [(status, message, _)] = meet(indices=[0], port=port)
  assert status == 1 and f"process 0 cannot listen on port {port} (Address already in use)" in message
