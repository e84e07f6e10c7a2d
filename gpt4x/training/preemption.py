"""Preemption: SIGTERM or Ctrl-C asks a run to save and stop."""

import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

PREEMPTED, INTERRUPTED = 75, 130  # Exit statuses of a run that was stopped and has saved.


class Stopped(Exception):
  """Work that need not be finished before a run stops has been given up."""


class Preemption:
  """Turns SIGTERM and the first Ctrl-C into a request to save and stop after the step under way.

  A second Ctrl-C ends the process at once. Several processes stop after the same step, though only one may be told:
  JAX's preemption service, which took over SIGTERM when they connected, passes the notice on and chooses the step.
  """

  def __init__(self):
    self.requested = False
    self.by, self.status = "SIGTERM", PREEMPTED  # What has asked, and the exit status that tells.
    self._questions, self._interrupted, self._agreed = 0, False, False
    self._previous: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():  # Elsewhere its owner stops the run.
      numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)
      self._previous = {number: signal.signal(number, self._notice) for number in numbers}

  def reached(self) -> bool:
    """Whether to stop now. All processes ask alike, so each question has a number, and get the same answer."""
    if jax.process_count() > 1 and not self._agreed:
      self._questions += 1
      self._agreed = multihost_utils.reached_preemption_sync_point(self._questions)
    return self.requested or self._agreed

  def check(self) -> None:
    """Raises Stopped if `reached`."""
    if self.reached():
      raise Stopped

  def close(self) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]

  def _notice(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
      if self._interrupted:
        self._end()
      self._interrupted = True
      os.write(2, b"\ngpt4x: saving and stopping; Ctrl-C again ends at once\n")  # `print` might be what is interrupted.
      if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)  # A notice to all.
        return
      if not self.requested:
        self.by, self.status = "Ctrl-C", INTERRUPTED
    self.requested = True

  def _end(self) -> None:
    """Ends the process as SIGKILL would, which loses nothing that was saved; in a notebook, what its cell is doing."""
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
      raise KeyboardInterrupt
    os.write(2, b"\x1b[?25h\ngpt4x: interrupted\n" if os.isatty(2) else b"gpt4x: interrupted\n")  # Shows the cursor.
    os._exit(INTERRUPTED)
