"""How far a preparation is, on stderr: a bar on a terminal, else a line every half minute."""

import sys
import time
from typing import Any, Self

from gpt4x.preparation.work import Stage

_EVERY = 30.0  # Seconds.


class Progress:
  """Of one stage, by the sizes of its tasks."""

  def __init__(self, stage: Stage):
    self._stage, self._done, self._total = stage, 0, sum(stage.sizes)
    self._started = self._last_line = time.monotonic()
    self._bar: Any = None
    if sys.stderr.isatty():
      from rich import console, progress
      self._bar = progress.Progress(
          progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(),
          progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn(),
          console=console.Console(stderr=True))
      self._task = self._bar.add_task(stage.name, total=self._total)
      self._bar.start()

  def note(self, index: int) -> None:
    """A task is done."""
    self._done += self._stage.sizes[index]
    now = time.monotonic()
    if self._bar is not None:
      self._bar.update(self._task, completed=self._done)
    elif now - self._last_line >= _EVERY:
      self._last_line = now
      left = (now - self._started) * (self._total - self._done) / self._done
      print(f"{self._stage.name}: {self._done / self._total:.0%}, {left:,.0f} s left", file=sys.stderr, flush=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.stop()
