"""What a tracker is: the protocol, and how a run writes to several of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import sys
from typing import Any, Protocol

import numpy as np

from gpt4x.errors import one_line, UserError
from gpt4x.media.medium import Audio


@dataclasses.dataclass(frozen=True)
class Run:
  """What a tracker is told as training starts or goes on.

  Attributes:
    model_dir: the run's directory.
    step: the step that training goes on from; -1 for a run that is new.
    gin_text: the run's configuration.
    kept: the lines of metrics.jsonl up to `step`.
    retaken: those after it that were written before. The run takes these steps again and writes them again.
    went_back: whether that is on demand, so that the steps may turn out otherwise; else they repeat what was lost.
  """

  model_dir: str
  step: int = -1
  gin_text: str = ""
  kept: Sequence[Mapping[str, Any]] = ()
  retaken: Sequence[Mapping[str, Any]] = ()
  went_back: bool = False


class Tracking(Protocol):
  """A tracker at work. An error ends it, not the run; only a UserError ends both.

  It may have one more method, `show(step, name, picture, sounds)`: the picture of an evaluation of that step, uint8
  [H, W, 3], with sounds by name. It comes after the step's values, whose split is the first part of its name.
  """

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the values {"split/name": value} of a step. Steps never fall, and one may come in several parts."""

  def flush(self) -> None:
    """Returns when what was written is not lost with this process; a checkpoint is saved behind it."""

  def close(self) -> None: ...


class Tracker(Protocol):
  """How to track a run: a configuration, which gin text can say. Only the first process starts it."""

  def start(self, run: Run) -> Tracking:
    """Starts to track a run, or goes on: what was written of steps that are retaken must not show twice."""


def check_installed(trackers: Iterable[Tracker]) -> None:
  """Raises UserError if a tracker's package, which it names in PACKAGE, is missing."""
  for tracker in trackers:
    package = getattr(tracker, "PACKAGE", None)
    if package and importlib.util.find_spec(package) is None:
      raise UserError(f"train.trackers has {type(tracker).__name__}, but {package} is not installed:"
                      f" pip install 'gpt4x[{package}]'")


class Trackers:
  """Several trackers, each of which is left out with a warning once it has failed."""

  def __init__(self, trackers: Iterable[Tracker], run: Run):
    self._open: list[tuple[str, Tracking]] = []
    for tracker in trackers:
      with _warning(name := type(tracker).__name__):
        self._open.append((name, tracker.start(run)))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._each(lambda tracking: tracking.write(step, values))

  def show(self, step: int, name: str, picture: np.ndarray, sounds: Mapping[str, Audio]) -> None:
    self._each(lambda tracking: getattr(tracking, "show", lambda *_: None)(step, name, picture, sounds))

  def flush(self) -> None:
    self._each(lambda tracking: tracking.flush())

  def close(self) -> None:
    self._each(lambda tracking: tracking.close())
    self._open = []

  def _each(self, action: Callable[[Tracking], None]) -> None:
    working, self._open = self._open, []
    for name, tracking in working:
      with _warning(name):
        action(tracking)
        self._open.append((name, tracking))


@contextlib.contextmanager
def _warning(name: str) -> Iterator[None]:
  """Turns an error into a warning, but for a UserError."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # Of any library, at any network.  pylint: disable=broad-exception-caught
    print(f"gpt4x: warning: {name} gets no more of this run, which goes on ({type(error).__name__}: {one_line(error)});"
          " metrics.jsonl has all", file=sys.stderr, flush=True)
