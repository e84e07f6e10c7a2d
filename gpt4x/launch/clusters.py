"""Finds out which of several processes this is: from flags, JAX_* variables, or JAX in SLURM, MPI or a TPU pod."""

import dataclasses
import glob
import importlib.util
import os
import re

from gpt4x.errors import CommandError


@dataclasses.dataclass(frozen=True)
class Processes:
  """All processes of a run, and which of them this is."""

  count: int
  index: int  # This process's.
  coordinator: str  # HOST:PORT, where process 0 listens.
  local_devices: tuple[int, ...] | None = None  # This process's GPUs among those of its host; None: all.

  def __str__(self) -> str:
    return f"process {self.index} of {self.count}"


def find(coordinator: str | None = None, count: int | None = None, index: int | None = None,
         timeout: int = 300) -> Processes | None:
  """The processes named by the arguments, by JAX_* variables or by a cluster, in this order; None if there is one.

  A given count of 1 stops the search. On a pod, the name of its first host is waited for `timeout` seconds.
  """
  given = {"coordinator": coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
           "count": _number(count, "JAX_NUM_PROCESSES"), "index": _number(index, "JAX_PROCESS_ID")}
  given = {name: value for name, value in given.items() if value is not None}
  if given.get("count") == 1 or not (
      values := (_found(timeout, "coordinator" in given) if len(given) < 3 else {}) | given):
    return None
  if "JOB_COMPLETION_INDEX" in os.environ:  # An indexed Kubernetes job, for which JAX would ask the API server.
    values.setdefault("index", int(os.environ["JOB_COMPLETION_INDEX"]))
  flags = {"coordinator": "--coordinator_address=HOST:PORT", "count": "--num_processes=N", "index": "--process_id=I"}
  if missing := [flag for name, flag in flags.items() if name not in values]:
    raise CommandError(f"a run of several processes ({', '.join(f'{name} {value}' for name, value in values.items())})"
                       f" needs {' and '.join(missing)} as well: give it to every process")
  one = Processes(**values)
  if one.index >= one.count:
    raise CommandError(f"--process_id={one.index} is not one of {one.count} processes: use 0 to {one.count - 1}")
  if not re.fullmatch(r".+:\d+", one.coordinator):
    raise CommandError(f"--coordinator_address={one.coordinator} is not HOST:PORT: add a free port of process 0's host")
  return one


def _number(value: int | None, name: str) -> int | None:
  if value is not None or name not in os.environ:
    return value
  if not os.environ[name].isdecimal():
    raise CommandError(f"{name}={os.environ[name]} in the environment is not a whole number: correct or unset it")
  return int(os.environ[name])


def _found(timeout: int, coordinator_given: bool) -> dict:
  """Fields of `Processes` that JAX finds; empty for one process. Without a hint of a cluster JAX is not imported."""
  env = os.environ
  tpu = importlib.util.find_spec("libtpu") and glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
  hints = {  # In the order in which JAX looks for them.
      "OmpiCluster": int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1,
      # JAX goes by SLURM_NTASKS, which a batch script of one process has too; only `srun` sets SLURM_STEP_*.
      "SlurmCluster": int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1,
      "GkeTpuCluster": "TPU_PROCESS_ADDRESSES" in env or "TPU_WORKER_HOSTNAMES" in env,
      "GceTpuCluster": tpu and not {"tpu", ""}.isdisjoint(env.get("JAX_PLATFORMS", "").split(",")),
  }
  if not (hint := next((name for name, hinted in hints.items() if hinted), None)):
    return {}
  from jax._src import clusters
  cluster = getattr(clusters, hint)
  try:
    present = cluster.is_env_present()
    if "Tpu" in hint and (not present or cluster.get_process_count() == 1):
      return {}
    found = {"count": cluster.get_process_count(), "index": cluster.get_process_id()}
    found["local_devices"] = _own_gpu(cluster.get_local_process_id(), found["count"])
    if present and not coordinator_given:  # Open MPI 5 no longer gives the address.
      found["coordinator"] = cluster.get_coordinator_address(timeout, env.get("JAX_COORDINATOR_PORT"))
    return found
  except (LookupError, OSError, RuntimeError, ValueError) as error:
    if hint == "GceTpuCluster" and isinstance(error, OSError):
      return {}  # Without a metadata server, this is a TPU by itself.
    raise CommandError(f"{cluster.name} does not tell of this run's processes ({type(error).__name__}: {error}): give"
                       " --coordinator_address, --num_processes and --process_id, or --num_processes=1") from error


def _own_gpu(local_index: int | None, count: int) -> tuple[int] | None:
  """This process's GPU if several processes share a host; None: all. JAX would give one to a single process too."""
  env, mpi = os.environ, os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")  # Under mpirun SLURM_* describe its daemons.
  several = int(mpi) > 1 if mpi else count > int(env.get("SLURM_STEP_NUM_NODES", count))
  one_visible = "SLURM_GPUS_PER_TASK" in env or "," not in (env.get("CUDA_VISIBLE_DEVICES") or ",")
  return (local_index,) if several and local_index is not None and not one_visible else None
