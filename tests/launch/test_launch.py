"""Finding the other processes, and the last word about one that ends; what takes two real ones is next door.

`tests/integration/test_hosts.py` trains on two; here they only meet.
"""

import socket
import subprocess
import sys

import pytest

from gpt4x import distributed
from gpt4x.distributed import find, Processes
from gpt4x.errors import CommandError

SRUN = {"SLURM_JOB_ID": "4099", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "tpu[003-005,9],login1"}
FOUR_A_NODE = SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu7", "SLURM_LOCALID": "3"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
       "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
GKE = {"TPU_WORKER_HOSTNAMES": "a.svc,b.svc", "TPU_WORKER_ID": "1"}
ADDRESS = "head:1234"


@pytest.mark.parametrize("env, expected", [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),  # In a batch script.
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    (SRUN, Processes(4, 3, "tpu003:61443")),
    (FOUR_A_NODE, Processes(4, 3, "gpu7:61443", (3,))),
    (FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "2"}, Processes(4, 3, "gpu7:61443")),
    (FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, Processes(4, 3, "gpu7:61443")),
    (SRUN | {"JAX_COORDINATOR_ADDRESS": ADDRESS}, Processes(4, 3, ADDRESS)),
    (MPI | {"JAX_COORDINATOR_ADDRESS": ADDRESS}, Processes(2, 1, ADDRESS, (1,))),
    (GKE, Processes(2, 1, "a.svc:8482")),
    (GKE | {"TPU_PROCESS_ADDRESSES": "c:8476,d:8476,e:8476"}, Processes(3, 1, "c:8482")),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    (GKE | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "first:8080"},
     Processes(4, 3, "first:8482")),
    ({"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, Processes(2, 1, ADDRESS)),
    ({"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"},
     Processes(2, 1, ADDRESS)),
    ({"JOB_COMPLETION_INDEX": "1", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
])
def test_found_in_the_environment(env, expected):
  assert find(env=env) == expected


def test_flags_go_before_the_environment():
  assert find(ADDRESS, 2, 0, SRUN) == Processes(2, 0, ADDRESS)
  assert find(count=1, env=SRUN) is None


@pytest.mark.parametrize("args, env, words", [
    ((None, 2, None), {}, "needs --coordinator_address=HOST:PORT and --process_id=I as well"),
    ((None, None, None), MPI, "count 2, index 1, .* needs --coordinator_address"),
    ((ADDRESS, None, None), {}, "needs --num_processes=N and --process_id=I as well"),
    ((ADDRESS, 2, 2), {}, "--process_id=2 is not one of 2 processes: use 0 to 1"),
    (("head", 2, 0), {}, "--coordinator_address=head is not HOST:PORT"),
    ((ADDRESS, None, 0), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two in the environment is not a whole"),
])
def test_incomplete_or_wrong(args, env, words):
  with pytest.raises(CommandError, match=words) as error:
    find(*args, env)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("endpoints, expected", [
    ("10.0.0.1,10.0.0.2", Processes(2, 1, "10.0.0.1:8482")),
    ("w0:0:10.0.0.1,w1:1:10.0.0.2", Processes(2, 1, "10.0.0.1:8482")),
    ("10.0.0.1", None),
])
def test_a_tpu_vm_asks_the_metadata_server(monkeypatch, endpoints, expected):
  answers = {"worker-network-endpoints": endpoints, "agent-worker-number": str(endpoints.count(",")),
             "tpu-env": "ZONE: 'here'\nWORKER_ID: '1'"}
  monkeypatch.setattr(distributed, "_metadata", answers.__getitem__)
  monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
  assert find(env={}) == expected
  assert find(env={"JAX_PLATFORMS": "cpu"}) is None
  answers["tpu-env"] += ("\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '1'"
                         "\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9'")
  workers = len(endpoints.split(","))
  assert find(env={}) == Processes(3 * workers, 2 * workers - 1, "10.9.9.9:8482")


def test_no_metadata_server_is_no_pod(monkeypatch):
  def fail(name):
    raise OSError("no route")
  monkeypatch.setattr(distributed, "_metadata", fail)
  monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: ["/dev/accel0"])
  assert find(env={}) is None


# Each is run as process 1 of 2, by a Python that has no threads yet, and prints what `supervise` returns.
SUPERVISE = """
import os, signal, sys
from gpt4x import distributed
def work(note):
  {}
print(distributed.supervise(distributed.Processes(2, 1, "nowhere:1"), work, sys.argv[1]))
"""
GONE = "error: process 1 of 2: process 0 is gone; its own last line may say why: start all of them again"


@pytest.mark.parametrize("work, expected", [
    ("return 0, None", (0, None)),
    ("return 75, None", (75, None)),
    ("return 2, 'error: wrong'", (2, "error: wrong")),
    ("return 1, None", (1, GONE)),
    ("os.abort()", (1, GONE)),
    ("note('no answer'); os.abort()", (1, "error: process 1 of 2: no answer: start all of them again")),
    ("note('no answer'); note(''); os.abort()", (1, GONE)),
    ("os.kill(os.getpid(), signal.SIGKILL)",
     (1, "error: process 1 of 2: ended by SIGKILL (out of memory?): start all of them again")),
    ("signal.signal(signal.SIGTERM, lambda *_: os._exit(75)); os.kill(os.getppid(), signal.SIGTERM); signal.pause()",
     (75, None)),
])
def test_the_last_word(tmp_path, work, expected):
  run = lambda: subprocess.run([sys.executable, "-c", SUPERVISE.format(work), tmp_path], capture_output=True, text=True)
  assert run().stdout.strip() == str(expected)
  if expected[1] and "again" in expected[1]:
    for name in ("8", "24", "32.orbax-checkpoint-tmp"):
      (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run().stdout.strip() == str((1, expected[1] + ", and the run continues from step 24"))


# What two processes do once they are connected; `devices` of them each, and `index` tells them apart.
MEET = """
import os, signal, sys
from gpt4x import distributed
from gpt4x.errors import UserError
index, port, timeout, devices = map(int, sys.argv[1:5])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={{devices}}"
processes = distributed.Processes(2, index, f"127.0.0.1:{{port}}")
def work(note):
  try:
    distributed.start(processes, note, timeout, 10, preemptible=False)
    {}
    distributed.stop()
  except UserError as error:
    return 1, str(error)
  except Exception as error:
    if distributed.lost_contact(error):
      return 1, None
    raise
  return 0, None
status, message = distributed.supervise(processes, work, None)
print(message or "", end="")
sys.exit(status)
"""


def free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def meet(work: str = "pass", indices=(0, 1), timeout: int = 60, devices=(4, 4), port: int | None = None):
  """[(status, message, standard error)] of processes that do `work`, whose lines are indented by four."""
  port = port or free_port()
  code = MEET.format(work)
  started = [
      subprocess.Popen([sys.executable, "-c", code, *map(str, (index, port, timeout, devices[index]))], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE) for index in indices]
  outputs = [process.communicate(timeout=120) for process in started]
  return [(process.returncode, *output) for process, output in zip(started, outputs)]


def test_two_processes_agree_and_only_the_first_prints():
  (status, out, err), other = meet("""
    print(distributed.exchange(f"of {index}"), file=sys.stderr)
    distributed.check("A = 1")""")
  assert (status, out) == (0, "") and err.strip() == "['of 0', 'of 1']"
  assert other == (0, "", "")


def test_another_configuration():
  results = meet("distributed.check(f'B = 2\\nA = {index}\\n')")
  assert [status for status, *_ in results] == [1, 1]
  # One of them may find the other gone before it has said so itself.
  message = "the configuration of process 1 differs from that of process 0 ('A = 1' against 'A = 0'): start all with"
  assert any(said.startswith(message) for _, said, _ in results)


def test_another_number_of_devices():
  results = meet("distributed.check('A = 1')", devices=(1, 2))
  assert [status for status, *_ in results] == [1, 1]
  assert any("(1 in process 0, 2 in process 1): give each the same" in message for _, message, _ in results)


def test_directory_that_is_not_shared(tmp_path):
  results = meet(f"""
    from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints
    Checkpoints({str(tmp_path)!r} + f'/host{{index}}', CheckpointConfig())""")
  assert [status for status, *_ in results] == [1, 1]
  assert any("host" in message and "process 1 cannot see what process 0 writes" in message for _, message, _ in results)
  assert not list(tmp_path.glob("*/checkpoints/.*"))


def test_a_damaged_checkpoint_is_passed_over_by_all(tmp_path):
  results = meet(f"""
    import pathlib, jax, numpy as np
    from jax.sharding import PartitionSpec
    from gpt4x.partitioning import Partitioner
    from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints
    model_dir, partitioner = pathlib.Path({str(tmp_path)!r}), Partitioner()
    sharding = jax.NamedSharding(partitioner.mesh, PartitionSpec('data'))
    make = lambda step: {{'params': {{'w': jax.make_array_from_callback(
        (16,), sharding, lambda index: np.arange(16.0, dtype=np.float32)[index] + step)}}}}
    directory = Checkpoints(model_dir, CheckpointConfig())
    for step in (1, 2):
      directory.save(step, make(step), {{'place': step}}, 'A = 1', seed=0)
    directory.close()
    distributed.exchange('saved')
    if index:
      data = [path for path in (model_dir / 'checkpoints' / '2').rglob('d/*') if path.is_file()]
      data[0].write_bytes(b'damage' + data[0].read_bytes()[6:])
    distributed.exchange('damaged')
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
    gather() if {waiting == "at a collective"} else distributed.exchange("")""")
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
