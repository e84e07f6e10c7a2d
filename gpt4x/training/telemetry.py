"""Telemetry: how fast a run is, and traces of what it does."""

from collections.abc import Iterator
import pathlib
import shutil
import tempfile
import time
from typing import Any

import jax

from gpt4x import run_directory, storage
from gpt4x.experiment import Experiment
from gpt4x.partitioning import Partitioner
from gpt4x.training import hardware


class Rates:
  """Speed since the last report; `restart` leaves out what is not training, such as evaluation and compilation."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner):
    config, dataset = experiment.model.config, experiment.dataset
    self._tokens = dataset.batch_size * dataset.segment_length
    self.flops_per_token = config.flops_per_token(dataset.segment_length, experiment.memory_length, training=True)
    self._peak, source = hardware.peak_flops(config.compute_dtype, partitioner.mesh.size)
    self.peak = f"{self._peak / 1e12:.4g} TFLOP/s ({source})"
    self.tokens_per_second: float | None = None  # As last reported.
    self.restart()

  def restart(self) -> None:
    self._since, self._steps, self._waited = time.monotonic(), 0, 0.0

  def next(self, batches: Iterator[Any]) -> Any:
    """The next batch; the time that it is waited for counts as `input_wait`."""
    start = time.monotonic()
    batch = next(batches)
    self._waited += time.monotonic() - start
    return batch

  def count_step(self) -> None:
    self._steps += 1

  def since_last(self) -> dict[str, float]:
    """Steps and tokens per second, MFU (see hardware.py), and the share of the time spent on waiting for input."""
    seconds = time.monotonic() - self._since
    steps_per_second, input_wait = self._steps / seconds, self._waited / seconds
    self.tokens_per_second = tokens_per_second = steps_per_second * self._tokens
    self.restart()
    return {"steps_per_second": steps_per_second, "tokens_per_second": tokens_per_second,
            "mfu": self.mfu(tokens_per_second), "input_wait": input_wait}

  def mfu(self, tokens_per_second: float) -> float:
    return tokens_per_second * self.flops_per_token / self._peak


class Profiler:
  """Writes a trace of steps START to STOP into DIR/profile, for TensorBoard or Perfetto."""

  def __init__(self, model_dir: str, steps: tuple[int, int] | None):
    self._directory = storage.path(model_dir) / run_directory.PROFILE
    self._local = self._directory  # Where the profiler writes, which knows of no buckets.
    self._steps = steps if steps and jax.process_index() == 0 else (-1, -1)
    self._running = False

  def before_step(self, step: int) -> None:
    start, stop = self._steps
    if step == stop:
      self.close()
    if step == start:
      if storage.is_remote(self._directory):
        self._local = pathlib.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(str(self._local))
      self._running = True

  def close(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      if storage.is_remote(self._directory):
        storage.upload(self._local, self._directory)
        shutil.rmtree(self._local)
