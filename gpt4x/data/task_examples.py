"""What seqio tasks yield: their examples, in order or shuffled, with errors that name task, split and place."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import copy
import functools
import inspect
import itertools
import re
import sys
import threading
import traceback
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x.errors import UserError

if TYPE_CHECKING:
  import seqio
  import tensorflow as tf

_PLACE = re.compile(
    r"(\{\{.*?\}\} |Error in user-defined function passed to \S+ transformation with iterator: \S+: )*")
# seqio deals out the seeds of preprocessors from one counter of the process: of two threads that build at once, each
# would get some of the other's.
BUILDING = threading.RLock()
SHUFFLE_BUFFER = 100_000  # Examples of an ordered data set that wait in memory to be shuffled.


def examples(provider: "seqio.Task | seqio.Mixture", split: str,
             convert: "Callable[[tf.data.Dataset], tf.data.Dataset]" = lambda dataset: dataset, **options: Any
             ) -> Iterator[dict[str, np.ndarray]]:
  """Runs `provider.get_dataset(split=split, **options)`; an error of seqio, TensorFlow or the disk is a UserError."""
  count = itertools.count()
  with errors_of(provider, split, lambda: next(count)):
    with BUILDING:
      dataset = convert(_shuffled_here(provider).get_dataset(split=split, **options))
    for example in dataset.as_numpy_iterator():
      next(count)
      yield example


def _tensorflow() -> Any:
  """TensorFlow without accelerators: it would take all the memory that JAX needs."""
  import tensorflow as tf

  with contextlib.suppress(RuntimeError):  # Already initialized.
    tf.config.set_visible_devices([], "GPU")
  return tf


@contextlib.contextmanager
def errors_of(provider: "seqio.Task | seqio.Mixture", split: str, read: Callable[[], int] | None = None,
              all_errors: bool = False) -> Iterator[None]:
  """Turns errors of seqio, TensorFlow and the disk, or all, into a UserError of one line.

  `read` says how many examples came before.
  """
  tf = _tensorflow()
  # Looked up here: when Python ends and closes a generator that is in this context, TensorFlow is gone.
  op_error = tf.errors.OpError
  errors = (Exception,) if all_errors else (ValueError, OSError, op_error)
  try:
    yield
  except UserError as error:
    *code, last = Exception.__str__(error).strip().split("\n")
    if not code:
      raise
    raise UserError(re.sub(r"^\s*[\w.]+: ", "", last)) from error  # Autograph puts the places in the code before it.
  except errors as error:
    cause = error
    while isinstance(cause.__cause__, Exception):  # seqio raises its own from those of a metric.
      cause = cause.__cause__
    # TensorFlow puts a node's name before a Python error and the traceback behind; autograph's traceback comes first.
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    message = _PLACE.sub("", lines[0 if isinstance(cause, op_error) else -1])
    if isinstance(cause, UserError):
      message = str(cause)
    elif "UserError: " in message:
      message = message.rpartition("UserError: ")[2]
    else:
      if not isinstance(cause, (ValueError, OSError, op_error)):
        message = f"{type(cause).__name__} {message}{_line(cause)}"
      message += _where(provider, split, read() if read else 0)
    raise UserError(f"task {provider.name}, split {split}: {message}") from error


def _line(error: Exception) -> str:
  """Where code that is no library's raised an error."""
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "-packages" not in frame.filename]
  return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _where(provider: Any, split: str, read: int) -> str:
  """Where an error came up, as far as it is known: behind how many examples, and in which files."""
  import seqio

  places = [f"behind {read:,} examples"] if read else []
  source = getattr(provider, "source", None)
  if isinstance(source, seqio.FileDataSource):
    with contextlib.suppress(Exception):  # The error may be that they cannot be listed.
      first, *others = source.list_shards(split)
      places.append(f"in {first}" + (f" or one of {len(others):,} more files" if others else ""))
  return f" ({', '.join(places)})" if places else ""


def _shuffled_here(provider: "seqio.Task | seqio.Mixture") -> Any:
  """The task or mixture, where ordered data sets of TFDS are read in order and shuffled here, since TFDS refuses to."""
  import seqio

  if isinstance(provider, seqio.Mixture):
    mixture, get = copy.copy(provider), provider.get_task_dataset
    mixture.get_task_dataset = lambda task, *args, **kwargs: get(_shuffled_here(task), *args, **kwargs)
    return mixture
  if isinstance(source := provider.source, seqio.FunctionDataSource):
    return _seeded_here(provider)
  if not isinstance(source, seqio.TfdsDataSource):
    return provider

  def get_dataset(split, shuffle=True, seed=None, **options):
    builder = source.tfds_dataset._get_builder(split)  # seqio has no public way.  pylint: disable=protected-access
    if not (shuffle and builder.info.disable_shuffling):
      return source.get_dataset(split=split, shuffle=shuffle, seed=seed, **options)
    dataset = source.get_dataset(split=split, shuffle=False, seed=seed, **options)
    return dataset.shuffle(min(source.num_input_examples(split) or SHUFFLE_BUFFER, SHUFFLE_BUFFER), seed=seed)

  return _with_source(provider, get_dataset)


def _seeded_here(task: "seqio.Task") -> Any:
  """The task of a function. Read in order, it gets a seed only if it takes one; preprocessors have it in any case."""
  source = task.source
  takes_seed = "seed" in inspect.signature(source._dataset_fn).parameters  # pylint: disable=protected-access

  def get_dataset(split, shuffle=True, seed=None, **options):
    return source.get_dataset(split=split, shuffle=shuffle, seed=seed if shuffle or takes_seed else None, **options)

  return _with_source(task, get_dataset)


def _with_source(task: "seqio.Task", get_dataset: "Callable[..., tf.data.Dataset]") -> Any:
  """The task with another way to read its source."""
  copied, source = copy.copy(task), copy.copy(task.source)
  source.get_dataset = get_dataset
  copied._source = source  # pylint: disable=protected-access
  return copied


class Cuts:
  """Cuts the features of a data set at their lengths, and counts what it cuts."""

  def __init__(self, lengths: Mapping[str, int]):
    tf = _tensorflow()
    self._lengths = dict(lengths)
    # For each feature the examples that were cut, and the tokens of the longest.
    self._cut = {name: tf.Variable(0, dtype=tf.int64) for name in lengths}
    self._longest = {name: tf.Variable(0, dtype=tf.int64) for name in lengths}
    self._count = tf.Variable(0, dtype=tf.int64)

  def trim(self, dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    import tensorflow as tf

    def cut(example):
      self._count.assign_add(1)
      for name, limit in self._lengths.items():
        length = tf.shape(example[name], tf.int64)[0]
        self._cut[name].assign_add(tf.cast(length > limit, tf.int64))
        self._longest[name].assign(tf.maximum(self._longest[name], length))
      return {**example, **{name: example[name][:limit] for name, limit in self._lengths.items()}}

    return dataset.map(cut)  # One after another, so that no count is lost.

  def found(self) -> tuple[int, dict[str, int], dict[str, int]]:
    """The number of examples so far; of each feature, how many were cut, and the longest."""
    cut, longest = ({name: int(value) for name, value in values.items()} for values in (self._cut, self._longest))
    return int(self._count), cut, longest


@functools.cache
def say_once(line: str) -> None:
  """Prints a line for the user, unless this process has."""
  print(line, file=sys.stderr)
