"""Which of several processes this is: told by flags and JAX_* variables, or found by SLURM, MPI or a TPU pod."""

from collections.abc import Mapping
import dataclasses
import glob
import importlib.util
import os
import re

from gpt4x.errors import CommandError

_TPU_PORT = 8482  # As JAX's own detection has it; TPU hosts and Kubernetes keep it free.
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Processes:
  """All processes of a run, and which of them this is."""

  count: int
  index: int
  coordinator: str  # HOST:PORT, where process 0 listens.
  local_devices: tuple[int, ...] | None = None  # The GPUs of this host that are this process's; None: all.

  def __str__(self) -> str:
    return f"process {self.index} of {self.count}"


def find(coordinator: str | None = None, count: int | None = None, index: int | None = None,
         env: Mapping[str, str] = os.environ) -> Processes | None:
  """The processes that the arguments, JAX_* variables, SLURM, MPI or a TPU pod tell of; None if this is the only one.

  What is given goes before what is found; a count of 1 stops the search.
  """
  given = {
      "coordinator": coordinator or env.get("JAX_COORDINATOR_ADDRESS"),
      "count": _number(count, env, "JAX_NUM_PROCESSES"),
      "index": _number(index, env, "JAX_PROCESS_ID"),
  }
  given = {name: value for name, value in given.items() if value is not None}
  if given.get("count") == 1:
    return None
  found = {}
  if len(given) < 3:
    found = _slurm(env) or _mpi(env) or _gke_tpu(env) or _gce_tpu(env) or {}
    if given and "JOB_COMPLETION_INDEX" in env:  # Of an indexed Kubernetes job, which tells nothing else.
      found.setdefault("index", int(env["JOB_COMPLETION_INDEX"]))
  values = found | given
  if not given and values.get("count", 1) == 1:
    return None
  flags = {"coordinator": "--coordinator_address=HOST:PORT", "count": "--num_processes=N", "index": "--process_id=I"}
  missing = [flag for name, flag in flags.items() if name not in values]
  if missing:
    raise CommandError(f"a run of several processes ({', '.join(f'{name} {value}' for name, value in values.items())})"
                       f" needs {' and '.join(missing)} as well: give it to every process")
  if not values["index"] < values["count"]:
    raise CommandError(f"--process_id={values['index']} is not one of {values['count']} processes: use 0 to"
                       f" {values['count'] - 1}")
  if not re.fullmatch(r".+:\d+", values["coordinator"]):
    raise CommandError(f"--coordinator_address={values['coordinator']} is not HOST:PORT: add a free port of process 0's"
                       " host")
  return Processes(**values)


def _number(value: int | None, env: Mapping[str, str], name: str) -> int | None:
  if value is not None or name not in env:
    return value
  if not env[name].isdecimal():
    raise CommandError(f"{name}={env[name]} in the environment is not a whole number: correct or unset it")
  return int(env[name])


def _slurm(env: Mapping[str, str]) -> dict | None:
  # SLURM_STEP_* are those of `srun`; SLURM_NTASKS is also set in a batch script, which is a single process.
  if int(env.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
    return None
  count, nodes = int(env["SLURM_STEP_NUM_TASKS"]), env["SLURM_STEP_NODELIST"]  # Such as tpu[003-010,12],login1.
  prefix, number = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes).groups()
  port = 61440 + int(env["SLURM_JOB_ID"]) % 4096  # Two jobs that share a node hardly share a port.
  several = count > int(env.get("SLURM_STEP_NUM_NODES", count))
  shared = several and "SLURM_GPUS_PER_TASK" not in env  # Otherwise each task sees its own GPUs only.
  return {"count": count, "index": int(env["SLURM_PROCID"]), "coordinator": f"{prefix}{number or ''}:{port}",
          "local_devices": _own_gpu(env, env["SLURM_LOCALID"]) if shared else None}


def _mpi(env: Mapping[str, str]) -> dict | None:
  if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) == 1:
    return None
  several = int(env["OMPI_COMM_WORLD_LOCAL_SIZE"]) > 1
  return {"count": int(env["OMPI_COMM_WORLD_SIZE"]), "index": int(env["OMPI_COMM_WORLD_RANK"]),
          "local_devices": _own_gpu(env, env["OMPI_COMM_WORLD_LOCAL_RANK"]) if several else None}


def _own_gpu(env: Mapping[str, str], local_rank: str) -> tuple[int] | None:
  """Of several processes on a host, each takes one GPU, unless it sees no other already."""
  visible = env.get("CUDA_VISIBLE_DEVICES", "")
  return None if visible and "," not in visible else (int(local_rank),)


def _gke_tpu(env: Mapping[str, str]) -> dict | None:
  hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
  return _tpu(env, hosts.split(","), env["TPU_WORKER_ID"]) if hosts and "TPU_WORKER_ID" in env else None


def _gce_tpu(env: Mapping[str, str]) -> dict | None:
  """From the metadata server of a TPU VM, which every other machine is spared the search for."""
  if (set(env.get("JAX_PLATFORMS", "tpu").split(",")).isdisjoint({"tpu", ""}) or "TPU_SKIP_MDS_QUERY" in env
      or not importlib.util.find_spec("libtpu") or not glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")):
    return None
  try:
    hosts = _metadata("worker-network-endpoints").split(",")  # Addresses, or NAME:ID:ADDRESS each.
    slices = dict(re.findall(r"^(MEGASCALE_\w+): '(.*)'", _metadata("tpu-env"), re.MULTILINE))
    return _tpu(slices | dict(env), [host.split(":")[-1] for host in hosts], _metadata("agent-worker-number"))
  except OSError:  # No such server, or no such attribute: a TPU by itself.
    return None


def _metadata(name: str) -> str:
  import urllib.request  # With the modules behind it, too slow for every start of the command.
  request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
  with urllib.request.urlopen(request, timeout=5) as response:
    return response.read().decode().strip()


def _tpu(env: Mapping[str, str], hosts: list[str], worker: str) -> dict:
  """The workers of all slices, slice by slice."""
  first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
  return {"count": len(hosts) * int(env.get("MEGASCALE_NUM_SLICES") or 1),
          "index": int(worker) + len(hosts) * int(env.get("MEGASCALE_SLICE_ID") or 0),
          "coordinator": f"{first.split(':')[0]}:{env.get('JAX_COORDINATOR_PORT', _TPU_PORT)}"}
