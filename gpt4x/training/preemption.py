"""Preemption: SIGTERM asks a run to save and stop."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Turns SIGTERM into a request to save and stop after the step under way.

  Several processes stop after the same step, though only one may be told: JAX's preemption service, which took over
  SIGTERM when they connected, passes the notice on in the background and chooses the step.
  """

  def __init__(self):
    self.requested = False
    # Python handles signals in the main thread only; elsewhere its owner stops the run.
    self._owner = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    if self._owner:
      self._previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))

  def reached(self, step: int) -> bool:
    """Whether to stop after `step` steps, to be asked at each; the same on all processes."""
    return self.requested or jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)

  def close(self) -> None:
    if self._owner:
      signal.signal(signal.SIGTERM, self._previous)
