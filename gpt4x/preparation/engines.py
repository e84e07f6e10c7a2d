"""Who runs the tasks of a stage: a pool of processes of this machine, or Apache Beam on whatever it runs on."""

import abc
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import process
import functools
import multiprocessing
import os
import threading
from typing import Self

from gpt4x.errors import UserError
from gpt4x.preparation.work import Stage, Work

Note = Callable[[int], None]  # Told of each task that is done, by its index.


class Engine(abc.ABC):
  """Runs all tasks of a stage, in any order; a context in which it has what it needs for that."""

  @abc.abstractmethod
  def run(self, work: Work, stage: Stage, note: Note) -> None:
    """Returns once all tasks are done."""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    return


class Pool(Engine):
  """Processes of this machine."""

  def __init__(self, workers: int):
    self._workers = workers
    self._pool: futures.ProcessPoolExecutor | None = None

  def run(self, work: Work, stage: Stage, note: Note) -> None:
    if self._pool is None:
      context = multiprocessing.get_context("spawn")  # A fork would have libraries' threads only by half.
      self._pool = futures.ProcessPoolExecutor(min(self._workers, len(work.shards)), context, _begin, (work,))
    try:
      running = {self._pool.submit(_run, stage, index): index for index in range(len(stage.sizes))}
      for done in futures.as_completed(running):
        done.result()
        note(running[done])
    except process.BrokenProcessPool as error:
      raise UserError(f"a worker of stage {stage.name} was killed, perhaps for want of memory: run the same command"
                      " again with fewer --workers; what is done stays") from error

  def __exit__(self, *_: object) -> None:
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)


class Beam(Engine):
  """A runner of Apache Beam, by the name that Beam has for it; its workers must see the same input and output."""

  def __init__(self, runner: str, options: Sequence[str] = ()):
    try:
      import apache_beam  # noqa: F401
    except ImportError as error:
      raise UserError("--runner needs apache-beam, which is not installed: pip install 'gpt4x[prepare]'") from error
    if runner == "DirectRunner":
      raise UserError("--runner=DirectRunner first tries to download a program: use FnApiRunner, or leave --runner out"
                      " for a pool of this machine")
    self._runner, self._options = runner, list(options)

  def run(self, work: Work, stage: Stage, note: Note) -> None:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
    from apache_beam.runners.portability import fn_api_runner
    runner = fn_api_runner.FnApiRunner() if self._runner == "FnApiRunner" else self._runner
    count = len(stage.sizes)
    with beam.Pipeline(runner, pipeline_options.PipelineOptions(self._options)) as pipeline:
      _ = (pipeline | beam.Create(range(count)) | beam.Reshuffle() | beam.Map(functools.partial(work.run, stage)))
    for index in range(count):
      note(index)


_work: Work | None = None  # Of a process of a pool.


def _begin(work: Work) -> None:
  global _work
  _work = work
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """A killed parent leaves its processes waiting for work that never comes."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)


def _run(stage: Stage, index: int) -> None:
  assert _work is not None
  _work.run(stage, index)
