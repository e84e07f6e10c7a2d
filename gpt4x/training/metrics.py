"""What a run reports: metrics.jsonl, trackers (TensorBoard), a progress bar. Only the first process writes."""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
import pathlib
import sys
import time
from typing import Any

import jax

from gpt4x import run_directory, storage
from gpt4x.errors import UserError
from gpt4x.evaluation.gallery import Gallery, place
from gpt4x.launch import agreement
from gpt4x.training.growing_file import GrowingFile
from gpt4x.training.trackers.tracker import Run, Tracker, Trackers


class MetricsWriter:
  """Appends to DIR/metrics.jsonl, one JSON object a line, and to what tracks the run."""

  def __init__(self, model_dir: str):
    self._path = storage.path(model_dir) / run_directory.METRICS
    self._active = jax.process_index() == 0
    self._lines = GrowingFile(self._path)
    self._trackers: Trackers | None = None

  def start(self, trackers: Sequence[Tracker], step: int = -1, gin_text: str = "", went_back: bool = False) -> None:
    """Goes on from a step, -1 for a run that is new: drops what was written after it, and starts the trackers."""
    if self._active:
      retaken = self.truncate(step)
      kept = read_metrics(str(self._path.parent))
      self._trackers = Trackers(trackers, Run(str(self._path.parent), step, gin_text, kept, retaken, went_back))

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Writes a line {"step": ..., "split": ..., name: value, ...}; it is in the file when this returns.

    In a bucket, files are uploaded whole: every few seconds, and by `flush`.

    A float has the digits that give back the same float, so equal values make equal text. One that is not finite
    becomes null, for which JSON has no other name.
    """
    if not self._active:
      return
    values = {name: getattr(value, "item", lambda: value)() for name, value in metrics.items()}  # Of arrays too.
    line = {"step": int(step), "split": split} | {
        name: value if math.isfinite(value) else None for name, value in values.items()}
    try:
      self._lines.append(json.dumps(line) + "\n")
    except OSError as error:
      raise _cannot_write(self._path, error) from error
    if self._trackers:
      self._trackers.write(int(step), {f"{split}/{name}": value for name, value in values.items()})
    if self._lines.is_due:
      self.flush()

  def show(self, step: int, split: str, gallery: Gallery) -> None:
    """Writes what an evaluation has to show into DIR/samples, and shows it to the trackers."""
    if self._active and gallery.sheet is not None:
      gallery.write(place(str(self._path.parent), step))
      if self._trackers:
        self._trackers.show(step, f"{split}/samples", gallery.sheet.pixels, gallery.sounds)

  def flush(self) -> None:
    """Returns when all lines are in their files, which they have to be before a checkpoint of their step is."""
    self._lines.flush()
    if self._trackers:
      self._trackers.flush()

  def truncate(self, step: int) -> list[dict[str, Any]]:
    """Drops the lines after `step`, which it returns, and what is no line of metrics."""
    try:
      if not self._active or (content := storage.read(self._path)) is None:
        return []
      found = list(_lines(self._path, content))
      self._lines.replace(b"".join(text for text, line in found if line["step"] <= step))
    except OSError as error:
      raise _cannot_write(self._path, error) from error
    return [line for _, line in found if line["step"] > step]

  def has(self, step: int, split: str) -> bool:
    """Whether metrics of a split were written at a step; the same on every process."""
    found = self._active and any(
        (line["step"], line["split"]) == (step, split) for _, line in _lines(self._path, storage.read(self._path)))
    return agreement.exchange(str(found))[0] == "True"

  def close(self) -> None:
    if self._active:
      self.flush()
    if self._trackers:
      self._trackers.close()


def read_metrics(model_dir: str) -> list[dict[str, Any]]:
  """The lines of DIR/metrics.jsonl, oldest first; empty if there is none."""
  path = storage.path(model_dir) / run_directory.METRICS
  return [line for _, line in _lines(path, storage.read(path))]


class Progress:
  """Steps done, loss, tokens/s and time left on stderr: a bar on a terminal, else a plain line every 30 seconds."""

  def __init__(self, total_steps: int, start_step: int = 0):
    self._total, self._start = total_steps, start_step
    self._started: float | None = None  # When step `_start` was done.
    self._last_line = -math.inf
    self._active = jax.process_index() == 0
    self._bar: Any = None
    if self._active and sys.stderr.isatty():
      from rich import console, progress
      self._bar = progress.Progress(
          progress.TextColumn("step"), progress.MofNCompleteColumn(), progress.BarColumn(),
          progress.TextColumn("{task.fields[status]}"), progress.TimeElapsedColumn(), progress.TextColumn("left"),
          progress.TimeRemainingColumn(), console=console.Console(stderr=True))
      self._task = self._bar.add_task("", total=total_steps, completed=start_step, status="")
      self._bar.start()

  def update(self, step: int, loss: float, tokens_per_second: float | None) -> None:
    """Shows that `step` steps are done."""
    if not self._active:
      return
    parts = [f"loss {loss:.4f}"] + ([f"{tokens_per_second:,.0f} tokens/s"] if tokens_per_second is not None else [])
    if self._bar is not None:
      self._bar.update(self._task, completed=step, status=", ".join(parts))
      return
    now = time.monotonic()
    if self._started is None:  # Compilation and all else before the first step does not recur.
      self._started, self._start = now, step
    if now - self._last_line < 30 and step < self._total:
      return
    self._last_line = now
    if (done := step - self._start) > 0:
      parts.append(f"{_clock((now - self._started) / done * (self._total - step))} left")
    print(f"step {step}/{self._total}", *parts, sep=", ", file=sys.stderr, flush=True)

  def print(self, text: str) -> None:
    """Prints a line of its own, above the bar if there is one."""
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    elif self._active:
      print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


def _lines(path: pathlib.Path, content: bytes | None) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Each line of metrics as it is written, and what it says; warns of others, but for a last one without its end."""
  *texts, _ = (content or b"").split(b"\n")
  for number, text in enumerate(texts, 1):
    try:
      line = json.loads(text)
      valid = isinstance(line["step"], int) and isinstance(line["split"], str)
    except (ValueError, TypeError, KeyError, RecursionError):
      valid = False
    if valid:
      yield text + b"\n", line
    else:
      print(f"gpt4x: warning: line {number} of {path} is no line of metrics and is left out", file=sys.stderr)


def _clock(seconds: float) -> str:
  minutes, whole_seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{whole_seconds:02}"


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
  return UserError(f"{path} cannot be written ({error.strerror}): free or unlock the model directory and start again")
