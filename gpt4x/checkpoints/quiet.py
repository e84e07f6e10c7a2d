"""What libraries print of a save that fails, for which `Checkpoints` has one line of its own."""

import logging
import sys
from typing import Any


def silence() -> None:
  """Keeps what follows from standard error; may be called again."""
  # Orbax logs dozens of lines for each save, and the errors that it raises as well, with a traceback.
  logging.getLogger("absl").addFilter(_not_of_orbax)
  # Orbax gives up at the first file that fails. TensorStore's threads then find nobody to tell of the others.
  if not isinstance(sys.unraisablehook, _Unraisable):
    sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
  return "orbax" not in record.pathname


class _Unraisable:
  """`sys.unraisablehook` without errors of threads that are not Python's and whose event loop is gone."""

  def __init__(self, previous: Any):
    self._previous = previous

  def __call__(self, unraisable: Any) -> None:
    if not (unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"):
      self._previous(unraisable)
