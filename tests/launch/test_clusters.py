"""Which processes there are: by flags, by variables, and by what JAX finds in a cluster."""

import os
import subprocess
import sys

from jax._src.clusters import cloud_tpu_cluster
import pytest

from gpt4x.errors import CommandError
from gpt4x.launch import clusters
from gpt4x.launch.clusters import find, Processes

BATCH_SCRIPT = {"SLURM_JOB_ID": "4099", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = BATCH_SCRIPT | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_PROCID": "3",
                       "SLURM_STEP_NODELIST": "tpu[003-005,9],login1"}
FOUR_A_NODE = SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu7", "SLURM_LOCALID": "3"}
MPI5 = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPI4 = MPI5 | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
GKE = {"TPU_WORKER_HOSTNAMES": "a.svc,b.svc", "TPU_WORKER_ID": "1"}
ADDRESS = "head:1234"


def unreachable(*_):
  raise OSError("no route")


@pytest.fixture(name="metadata", autouse=True)
def _metadata(monkeypatch):
  """A machine with TPUs whose metadata server gives these answers, to a code that asks it without waiting."""
  answers = {}
  monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (answers.get(key, ""), 200 if answers else 404))
  monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda name: name)
  return answers


@pytest.fixture(name="tpu_vm")
def _tpu_vm(monkeypatch):
  monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(clusters.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])


def find_in(monkeypatch, env, *args):
  monkeypatch.setattr(os, "environ", env)
  return find(*args)


@pytest.mark.parametrize("env, expected", [
    ({}, None),
    (BATCH_SCRIPT, None),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    (SRUN, Processes(4, 3, "tpu003:61443")),
    (SRUN | {"JAX_COORDINATOR_PORT": "99"}, Processes(4, 3, "tpu003:99")),
    (FOUR_A_NODE, Processes(4, 3, "gpu7:61443", (3,))),
    (FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "2"}, Processes(4, 3, "gpu7:61443")),
    (FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, Processes(4, 3, "gpu7:61443", (3,))),
    (FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, Processes(4, 3, "gpu7:61443")),
    (SRUN | {"JAX_COORDINATOR_ADDRESS": ADDRESS}, Processes(4, 3, ADDRESS)),
    (MPI4, Processes(2, 1, "10.96.0.1:62624", (1,))),
    (MPI4 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
     Processes(2, 1, "10.96.0.1:62624")),
    # mpirun starts its daemons by srun, on all nodes but its own.
    (SRUN | MPI4, Processes(2, 1, "10.96.0.1:62624", (1,))),
    (SRUN | MPI4 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "SLURM_STEP_NUM_NODES": "1"},
     Processes(2, 1, "10.96.0.1:62624")),
    (MPI5 | {"JAX_COORDINATOR_ADDRESS": ADDRESS}, Processes(2, 1, ADDRESS, (1,))),
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
def test_found_in_the_environment(monkeypatch, env, expected):
  assert find_in(monkeypatch, env) == expected


def test_flags_go_before_the_environment(monkeypatch):
  assert find_in(monkeypatch, SRUN, ADDRESS, 2, 0) == Processes(2, 0, ADDRESS)
  assert find_in(monkeypatch, SRUN, ADDRESS) == Processes(4, 3, ADDRESS)
  assert find_in(monkeypatch, SRUN, None, 1) is None
  assert find_in(monkeypatch, SRUN | {"JAX_NUM_PROCESSES": "1"}) is None


@pytest.mark.parametrize("args, env, words", [
    ((None, 2, None), {}, "needs --coordinator_address=HOST:PORT and --process_id=I as well"),
    ((None, None, None), MPI5, "count 2, index 1, .* needs --coordinator_address"),
    ((ADDRESS, None, None), {}, "needs --num_processes=N and --process_id=I as well"),
    ((ADDRESS, 2, 2), {}, "--process_id=2 is not one of 2 processes: use 0 to 1"),
    (("head", 2, 0), {}, "--coordinator_address=head is not HOST:PORT"),
    ((ADDRESS, None, 0), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two in the environment is not a whole"),
    ((), {name: value for name, value in SRUN.items() if name != "SLURM_PROCID"},
     "slurm does not tell .*SLURM_PROCID.*: give --coordinator_address, --num_processes and --process_id"),
    ((), GKE | {"TPU_WORKER_ID": "x"}, "gketpu does not tell of this run's processes .*or --num_processes=1"),
])
def test_incomplete_or_wrong(monkeypatch, args, env, words):
  with pytest.raises(CommandError, match=words) as error:
    find_in(monkeypatch, env, *args)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("endpoints, expected", [
    ("10.0.0.1,10.0.0.2", Processes(2, 1, "10.0.0.1:8482")),
    ("w0:0:10.0.0.1,w1:1:10.0.0.2", Processes(2, 1, "10.0.0.1:8482")),
    ("10.0.0.1", None),
])
def test_a_tpu_vm_asks_the_metadata_server(monkeypatch, metadata, tpu_vm, endpoints, expected):
  metadata |= {"worker-network-endpoints": endpoints, "agent-worker-number": str(endpoints.count(",")),
               "tpu-env": "ZONE: 'here'\nWORKER_ID: '1'"}
  assert find_in(monkeypatch, {}) == expected
  assert find_in(monkeypatch, {"JAX_PLATFORMS": "cpu"}) is None
  metadata["tpu-env"] += ("\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '1'"
                          "\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9'")
  workers = len(endpoints.split(","))
  assert find_in(monkeypatch, {}) == Processes(3 * workers, 2 * workers - 1, "10.9.9.9:8482")


def test_no_metadata_server_is_no_pod(monkeypatch, tpu_vm):
  assert find_in(monkeypatch, {}) is None, "the server answers, and knows no worker"
  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", unreachable)
  assert find_in(monkeypatch, {}) is None
  with pytest.raises(CommandError, match="no route"):  # On GKE there are others, and none may run by itself.
    find_in(monkeypatch, GKE)


def test_a_first_host_without_a_name(monkeypatch):
  with pytest.raises(CommandError, match="Failed to recognize coordinator address a.svc"):
    find_in(monkeypatch, GKE, None, None, None, 0)
  assert find_in(monkeypatch, GKE, ADDRESS, None, None, 0) == Processes(2, 1, ADDRESS), "nobody asks for its name"


@pytest.mark.parametrize("env", [{}, BATCH_SCRIPT, {"JOB_COMPLETION_INDEX": "1"},
                                 {"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}])
def test_where_nothing_hints_at_a_cluster_jax_is_not_imported(env):
  code = "from gpt4x.launch import clusters; import sys; clusters.find(); assert 'jax' not in sys.modules"
  own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "TPU", "JAX"))}
  subprocess.run([sys.executable, "-c", code], env=own | env, check=True)
