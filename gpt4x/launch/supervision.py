"""A parent process that explains how its child, which does the work, has died.

JAX's client of the coordination service ends its process from C++ when it cannot connect or when another process has
died, and calls no Python (not even a `missed_heartbeat_callback`). So each of several processes forks a child before
JAX runs; the parent hands on signals and prints the last line.
"""

from collections.abc import Callable
import contextlib
import ctypes
import mmap
import os
import re
import signal
import sys

from gpt4x import run_directory, storage
from gpt4x.errors import UserError
from gpt4x.launch.clusters import Processes

# Words of gloo, NCCL, gRPC and the coordination service for the loss of the other end.
_LOST = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|socket closed|connection (reset|closed|refused)|broken pipe"
                   "|remote process exited|tim(ed|e) ?out|heartbeat|unhealthy", re.IGNORECASE)


def supervise(processes: Processes, work: Callable[[Callable[[str], None]], tuple[int, str | None]],
              model_dir: str | None) -> tuple[int, str | None]:
  """Does `work` in a child process; returns its exit status and last message, or a message about its death.

  `work` gets a function that notes what to say if the process is aborted from then on ("": the usual), and returns
  (1, None) if it has lost contact with the others. The message names the newest checkpoint in `model_dir`.
  """
  note = mmap.mmap(-1, 1 << 13)  # Shared with the child, and outlives it.

  def write(text: str) -> None:
    note[:] = text.encode()[:len(note)].ljust(len(note), b"\0")

  sys.stdout.flush()
  sys.stderr.flush()
  handed_on = (signal.SIGTERM, signal.SIGHUP)
  signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # A signal ahead of the handlers would end the parent alone.
  if not (child := os.fork()):
    status = 1
    try:
      signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
      if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the child dies with its parent.
      status, message = work(write)
      write(message or "")
      for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
          stream.flush()
    finally:
      os._exit(status)  # A usual exit may wait in vain for the other processes.

  def hand_on(number, _):
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, number)

  for number in handed_on:
    signal.signal(number, hand_on)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to the child as well.
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  message = note[:].rstrip(b"\0").decode(errors="replace")
  if status >= 0 and (message or status != 1):
    return status, message or None
  if status not in (1, -signal.SIGABRT):
    message = f"ended by {signal.Signals(-status).name}{' (out of memory?)' if status == -signal.SIGKILL else ''}"
  elif not message:
    gone = f"process {1 - processes.index}" if processes.count == 2 else "another process"
    message = f"{gone} is gone; its own last line may say why"
  newest = _newest_step(model_dir) if model_dir else None
  continuing = "" if newest is None else f", and the run continues from step {newest}"
  return 1, f"error: {processes}: {message}: start all of them again{continuing}"


def _newest_step(model_dir: str) -> int | None:
  """The step of the newest finished checkpoint, if it can be told."""
  with contextlib.suppress(OSError, UserError):
    checkpoints = storage.path(model_dir) / run_directory.CHECKPOINTS
    with storage.errors(checkpoints):
      return max((int(folder.name) for folder in checkpoints.iterdir()
                  if folder.name.isdecimal() and run_directory.is_finished(folder)), default=None)
  return None


def lost_contact(error: BaseException | None) -> str | None:
  """The first line of an error, or of one that led to it, which says that another process does not answer."""
  while error is not None:
    if not isinstance(error, UserError) and _LOST.search(str(error)):
      return str(error).splitlines()[0]
    error = error.__cause__ or error.__context__
  return None
