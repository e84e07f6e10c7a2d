"""A parent that has the last word on a process which may die without one.

JAX's client of the coordination service ends its process from C++ when it cannot connect or when another process has
died, and calls no Python (a `missed_heartbeat_callback` cannot: its argument has no Python type). So where there are
several processes, each is two: one that works, forked before JAX runs, and its parent, which hands on
signals and has the last word. A single process starts nothing of this.
"""

from collections.abc import Callable
import contextlib
import mmap
import os
import pathlib
import re
import signal
import sys

from gpt4x import run_directory
from gpt4x.errors import UserError
from gpt4x.launch.clusters import Processes

_NOTE_BYTES = 1 << 13
# What gloo, NCCL, gRPC and the coordination service say when the other end is gone.
_LOST = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|socket closed|connection (reset|closed|refused)|broken pipe"
                   "|remote process exited|tim(ed|e) ?out|heartbeat|unhealthy", re.IGNORECASE)


def supervise(processes: Processes, work: Callable[[Callable[[str], None]], tuple[int, str | None]],
              model_dir: str | None) -> tuple[int, str | None]:
  """Does `work` in a child process; returns its exit status and last message, or else what is to be said of its death.

  `work` is given a function that notes what to say if the process is aborted from then on ("" for the usual). It
  returns (1, None) if it has lost contact with the others. A run continues from the newest checkpoint in `model_dir`.
  """
  note = mmap.mmap(-1, _NOTE_BYTES)  # Shared with the child, and still there when it is not.

  def write(text: str) -> None:
    note[:] = text.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES, b"\0")

  sys.stdout.flush()
  sys.stderr.flush()
  handed_on = (signal.SIGTERM, signal.SIGHUP)
  signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # One that comes before the handlers would end the parent alone.
  child = os.fork()
  if not child:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
    _work_and_exit(work, write)

  def hand_on(number, _):
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, number)

  for number in handed_on:
    signal.signal(number, hand_on)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal's reaches the child as well.
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  message = note[:].rstrip(b"\0").decode(errors="replace")
  if status >= 0 and (message or status != 1):
    return status, message or None
  if status not in (1, -signal.SIGABRT):
    message = f"ended by {signal.Signals(-status).name}{' (out of memory?)' if status == -signal.SIGKILL else ''}"
  elif not message:
    gone = f"process {1 - processes.index}" if processes.count == 2 else "another process"
    message = f"{gone} is gone; its own last line may say why"
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


def _continuing(model_dir: str | None) -> str:
  folders = pathlib.Path(model_dir, run_directory.CHECKPOINTS).glob("*") if model_dir else ()
  steps = [int(folder.name) for folder in folders if folder.name.isdecimal()]
  return f", and the run continues from step {max(steps)}" if steps else ""


def lost_contact(error: BaseException | None) -> str | None:
  """What an error, or one that led to it, says in a line if it is that another process does not answer."""
  while error is not None:
    if not isinstance(error, UserError) and _LOST.search(str(error)):
      return str(error).splitlines()[0]
    error = error.__cause__ or error.__context__
  return None
