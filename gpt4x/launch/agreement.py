"""Processes of a run connect, exchange values, compare what must be alike, and end together."""

from collections.abc import Callable
import hashlib
import itertools
import os
import socket
import sys

from gpt4x.errors import UserError
from gpt4x.launch.clusters import Processes

_FOREVER = 7 * 24 * 3600  # Seconds, for waits that end when the others arrive or when their heartbeats stop.


def start(processes: Processes, note: Callable[[str], None], start_timeout: int, heartbeat_timeout: int,
          preemptible: bool) -> None:
  """Connects this process with the others, before any device is used; only process 0 prints from then on.

  Timeouts are in seconds: how long to wait for the others, and how long a silent process counts as alive. If
  `preemptible`, SIGTERM to any process is a notice to all; otherwise it ends that process. `supervise` gives `note`.
  """
  # Gloo writes from C++ to standard output, which is for the results of `gpt4x eval`.
  sys.stdout, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  if processes.index:
    sys.stdout = sys.stderr = os.fdopen(nowhere, "w")
  import jax
  jax.config.update("jax_enable_preemption_service", preemptible)
  jax.config.update("jax_check_proxy_envs", False)  # JAX warns before there is a problem; the note below does after.
  address = processes.coordinator
  if processes.index:
    proxy = ", is http_proxy in the way" if any(name.lower() == "http_proxy" for name in os.environ) else ""
    note(f"no answer from process 0 at {address} within {start_timeout} s (is it started, is the address right, may"
         f" hosts connect to that port{proxy}?)")
  else:
    note(f"not all of {processes.count} processes have come to {address} within {start_timeout} s (were all started, is"
         " --num_processes right?)")
    host, _, port = address.rpartition(":")
    try:  # With a port in use, JAX would crash.
      socket.create_server(("", int(port))).close()
    except OSError as error:
      raise UserError(f"process 0 cannot listen on port {port} ({os.strerror(error.errno or 0)}): choose another for"
                      f" --coordinator_address={host}:PORT") from error
  try:
    jax.distributed.initialize(
        address, processes.count, processes.index, processes.local_devices, "deactivate",
        initialization_timeout=start_timeout, heartbeat_timeout_seconds=heartbeat_timeout,
        shutdown_timeout_seconds=_FOREVER)
  except RuntimeError as error:
    raise UserError(f"cannot start at {address} ({str(error).splitlines()[0]}): correct --coordinator_address,"
                    " --num_processes and --process_id") from error
  note("")


def stop() -> None:
  """Ends the connection once all processes have come here."""
  import jax
  jax.distributed.shutdown()


def connected() -> bool:
  """Whether this is one of several processes."""
  import jax
  return jax.distributed.is_initialized()


def is_first() -> bool:
  """Whether this is process 0, or the only one."""
  from jax._src.distributed import global_state  # Asks no device, unlike `jax.process_index`.
  return not global_state.process_id


_calls = itertools.count()  # Numbers the calls of `exchange`, which all processes make in the same order.


def exchange(value: str) -> list[str]:
  """The values of all processes in this call, by process; waits for all, however long they take."""
  from jax._src.distributed import global_state  # Its service takes any text and needs no device, but is not public.
  if global_state.client is None:
    return [value]
  folder = f"gpt4x/{next(_calls)}"
  global_state.client.key_value_set(f"{folder}/{global_state.process_id}", value)
  global_state.client.wait_at_barrier(folder, _FOREVER * 1000)
  values = dict(global_state.client.key_value_dir_get(folder))
  return [values[f"{folder}/{index}"] for index in range(global_state.num_processes)]


def check_alike(what: str, text: str) -> None:
  """Raises UserError, the same on every process, unless all of them give the same text."""
  if len(set(exchange(hashlib.sha256(text.encode()).hexdigest()))) > 1:
    first, *others = (text.split("\n") for text in exchange(text))
    index, other = next((index, other) for index, other in enumerate(others, 1) if other != first)
    here, there = next(lines for lines in itertools.zip_longest(other, first, fillvalue="nothing") if len({*lines}) > 1)
    raise UserError(f"the {what} of process {index} differs from that of process 0 ({here[:200]!r} against"
                    f" {there[:200]!r}): start all with the same flags, files and versions")


def check(configuration: str) -> None:
  """Raises UserError unless all processes have the same configuration and as many devices."""
  if connected():
    import jax
    check_alike("configuration", configuration)
    check_alike("number of devices", str(jax.local_device_count()))
