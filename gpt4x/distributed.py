"""A run of several processes: which of them this is, how they find each other, and a clear end when one is gone.

JAX's client of the coordination service ends its process from C++ when it cannot connect or when another process has
died, and calls no Python (a `missed_heartbeat_callback` cannot: its argument has no Python type). So where there are
several processes, each is two: one that works, forked before anything heavy is imported, and its parent, which hands on
signals and has the last word. A single process starts nothing of this.
"""

from collections.abc import Callable, Mapping
import collections
import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import itertools
import mmap
import os
import pathlib
import re
import signal
import socket
import sys

from gpt4x.errors import CommandError, UserError

_TPU_PORT = 8482  # As JAX's own detection has it; TPU hosts and Kubernetes keep it free.
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_FOREVER = 7 * 24 * 3600  # Seconds: for waits that end when the others arrive, or else when they miss heartbeats.
_NOTE_BYTES = 1 << 13
# What gloo, NCCL, gRPC and the coordination service say when the other end is gone.
_LOST = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|socket closed|connection (reset|closed|refused)|broken pipe"
                   "|remote process exited|tim(ed|e) ?out|heartbeat|unhealthy", re.IGNORECASE)


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


# Two processes in one: the parent has the last word.


def supervise(processes: Processes, work: Callable[[Callable[[str], None]], tuple[int, str | None]],
              model_dir: str | None) -> tuple[int, str | None]:
  """Does `work` in a child process; returns its exit status and last message, or else what is to be said of its death.

  Args:
    processes: of the run.
    work: takes a function that notes what to say if the process is aborted from then on ("" for the usual), and
      returns (exit status, message); (1, None) if it has lost contact with the others.
    model_dir: of a run that would continue from its newest checkpoint.
  """
  note = mmap.mmap(-1, _NOTE_BYTES)  # Shared with the child, and still there when it is not.

  def write(text: str) -> None:
    note[:] = text.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES, b"\0")

  sys.stdout.flush()
  sys.stderr.flush()
  child = os.fork()
  if not child:
    _work_and_exit(work, write)

  def hand_on(number, _):
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, number)

  for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, hand_on)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal's reaches the child as well.
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  message = note[:].rstrip(b"\0").decode(errors="replace")
  if status >= 0 and (message or status != 1):
    return status, message or None
  if status not in (1, -signal.SIGABRT):
    message = f"ended by {signal.Signals(-status).name}{' (out of memory?)' if status == -signal.SIGKILL else ''}"
  elif not message:
    message = f"{_gone(processes)} is gone; its own last line may say why"
  return 1, f"error: {processes}: {message}: start all of them again{_continuing(model_dir)}"


def _work_and_exit(work: Callable, write: Callable[[str], None]) -> None:
  status = 1
  try:
    if sys.platform == "linux":
      import ctypes
      ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever kills the parent means both.
    status, message = work(write)
    write(message or "")
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(BrokenPipeError):
        stream.flush()
  finally:
    os._exit(status)  # Whatever waits for the other processes at a usual exit might wait in vain.


def _gone(processes: Processes) -> str:
  host, _, port = processes.coordinator.rpartition(":")
  if processes.count == 2:
    return f"process {1 - processes.index}"
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
  except OSError:
    return "process 0"
  return f"one of the {processes.count} processes"


def _continuing(model_dir: str | None) -> str:
  if model_dir is None:
    return ""
  try:
    steps = [int(name) for name in os.listdir(pathlib.Path(model_dir).expanduser() / "checkpoints") if name.isdecimal()]
  except OSError:
    steps = []
  return f", and the run continues from step {max(steps)}" if steps else ""


def lost_contact(error: BaseException | None) -> str | None:
  """What an error, or one that led to it, says in a line if it is that another process does not answer."""
  while error is not None:
    if not isinstance(error, UserError) and _LOST.search(str(error)):
      return str(error).splitlines()[0]
    error = error.__cause__ or error.__context__
  return None


# The working process.


def start(processes: Processes, note: Callable[[str], None], start_timeout: int, heartbeat_timeout: int,
          preemptible: bool) -> None:
  """Connects this process with the others, ahead of any use of a device; only the first of them prints.

  Args:
    processes: of the run.
    note: see `supervise`.
    start_timeout: seconds to wait for the others.
    heartbeat_timeout: seconds of silence after which another process is taken for dead.
    preemptible: whether SIGTERM to any process is a notice to all, see `loop.Preemption`; otherwise it ends this one.
  """
  _print_on_first_only(processes)
  import jax
  jax.config.update("jax_enable_preemption_service", preemptible)
  jax.config.update("jax_check_proxy_envs", False)  # It warns of them before there is a problem; we do below.
  proxy = ", is http_proxy in the way" if any(name.lower() == "http_proxy" for name in os.environ) else ""
  if processes.index:
    note(f"no answer from process 0 at {processes.coordinator} within {start_timeout} s (is it started, is the"
         f" address right, may hosts connect to that port{proxy}?)")
  else:
    note(f"not all of {processes.count} processes have come to {processes.coordinator} within {start_timeout} s"
         " (were all started, is --num_processes right?)")
    host, _, port = processes.coordinator.rpartition(":")
    try:  # JAX would crash.
      socket.create_server(("", int(port))).close()
    except OSError as error:
      raise UserError(f"process 0 cannot listen on port {port} ({os.strerror(error.errno)}): choose another for"
                      f" --coordinator_address={host}:PORT") from error
  try:
    jax.distributed.initialize(
        processes.coordinator, processes.count, processes.index, processes.local_devices, "deactivate",
        initialization_timeout=start_timeout, heartbeat_timeout_seconds=heartbeat_timeout,
        shutdown_timeout_seconds=_FOREVER)
  except RuntimeError as error:
    raise UserError(f"cannot start at {processes.coordinator} ({str(error).splitlines()[0]}): correct"
                    " --coordinator_address, --num_processes and --process_id") from error
  note("")


def _print_on_first_only(processes: Processes) -> None:
  # Gloo writes to standard output from C++, where the results of `gpt4x eval` go.
  sys.stdout = os.fdopen(os.dup(1), "w")
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  if processes.index:
    sys.stdout = sys.stderr = os.fdopen(nowhere, "w")


def stop() -> None:
  """Waits until all processes have come here, and ends the connection."""
  import jax
  jax.distributed.shutdown()


def connected() -> bool:
  """Whether this is one of several processes."""
  import jax
  return jax.distributed.is_initialized()


_calls = itertools.count()  # Of `exchange`; alike on all processes, for they make the same calls.


def exchange(value: str) -> list[str]:
  """What each process gives in the same call, by process; waits for all of them, however long they take."""
  from jax._src.distributed import global_state  # The service takes any text and needs no device; no public way to it.
  if global_state.client is None:
    return [value]
  folder = f"gpt4x/{next(_calls)}"
  global_state.client.key_value_set(f"{folder}/{global_state.process_id}", value)
  global_state.client.wait_at_barrier(folder, _FOREVER * 1000)
  values = dict(global_state.client.key_value_dir_get(folder))
  return [values[f"{folder}/{index}"] for index in range(global_state.num_processes)]


def check_alike(what: str, text: str) -> None:
  """Raises UserError, the same on every process, unless all of them give the same text."""
  digests = exchange(hashlib.sha256(text.encode()).hexdigest())
  different = [index for index, digest in enumerate(digests) if digest != digests[0]]
  if different:
    first = exchange(text)[0].splitlines()
    pairs = itertools.zip_longest(text.splitlines(), first, fillvalue="nothing")
    lines = exchange(next((f"{here[:200]!r} against {there[:200]!r}" for here, there in pairs if here != there), ""))
    raise UserError(f"the {what} of process {different[0]} differs from that of process 0 ({lines[different[0]]}):"
                    " start all with the same flags, files and versions")


def check(configuration: str) -> None:
  """Raises UserError unless all processes have the same configuration and as many devices."""
  if not connected():
    return
  import jax
  check_alike("configuration", configuration)
  counts = collections.Counter(device.process_index for device in jax.devices())
  if len(set(counts.values())) > 1:
    counts = ", ".join(f"{count} in process {index}" for index, count in sorted(counts.items()))
    raise UserError(f"the processes differ in their number of devices ({counts}): give each the same")
