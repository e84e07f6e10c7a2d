"""Batches of examples for fine-tuning: one example a row, or several packed, through seqio's feature converters."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import itertools
import sys
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x import run_directory
from gpt4x.data import directories, token_store
from gpt4x.data.fingerprint import fingerprint, task_key
from gpt4x.data.stream import check_state, FEATURES

if TYPE_CHECKING:
  import seqio

  from gpt4x.data.dataset import DatasetConfig

Batch = dict[str, np.ndarray]


class Examples:
  """Endless batches of examples, in another order each epoch; a batch may end one epoch and begin the next.

  The position is (epoch, examples taken), and continuing runs through those examples again. A mixture is a single
  endless epoch, since its tasks end at different times. Every host reads all examples and keeps its `rows`, so the
  order does not depend on the number of hosts: tokenizing is cheap beside training.
  """

  def __init__(self, config: "DatasetConfig", provider: "seqio.Task | seqio.Mixture", split: str,
               rates: Mapping["seqio.Task", float], rows: Sequence[int] | None):
    self._config, self._provider, self._split, self._rows = config, provider, split, rows
    self._num_epochs = 1 if list(rates) == [provider] else None
    self._identity = {
        "feature_converter": config.feature_converter,
        "batch_size": config.batch_size,
        "task_feature_lengths": dict(config.task_feature_lengths),
        "pack": config.pack,
        "seed": config.seed,
        "rates": list(rates.values()),
        "content": [content(task, split, config.task_feature_lengths) for task in rates],
    }
    self._rewind(0, 0)

  def _rewind(self, epoch: int, taken: int) -> None:
    self._epoch, self._taken = epoch, taken
    self._examples = _converted(
        self._config, self._provider, self._split, skip=taken, shuffle=True, num_epochs=self._num_epochs,
        seed=int(fingerprint([self._config.seed, epoch])[:7], 16))

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    examples = []
    while len(examples) < self._config.batch_size:
      example = next(self._examples, None)
      if example is not None:
        examples.append(example)
        self._taken += 1
      elif self._taken:
        self._rewind(self._epoch + 1, 0)
      else:
        raise token_store.empty(self._provider, self._split)
    return _stack(self._config, self._rows, examples)

  def get_state(self) -> dict[str, Any]:
    return {**self._identity, "epoch": self._epoch, "taken": self._taken}

  def set_state(self, state: dict[str, Any]) -> None:
    check_state(state, self._identity)
    self._rewind(state["epoch"], state["taken"])


def once(config: "DatasetConfig", tasks: Sequence["seqio.Task"], split: str, rows: Sequence[int] | None
         ) -> Iterator[Batch]:
  """As many batches as hold each example of the tasks once; the last is filled up with padding."""
  examples = itertools.chain.from_iterable(
      _converted(config, task, split, shuffle=False, num_epochs=1) for task in tasks)
  group = list(itertools.islice(examples, config.batch_size))
  if not group:
    raise token_store.empty(tasks[0], split)
  while group:
    yield _stack(config, rows, group)
    group = list(itertools.islice(examples, config.batch_size))


def content(task: "seqio.Task", split: str, lengths: Mapping[str, int]) -> str:
  """Sixteen hexadecimal digits of all features' tokens: another way to the same tokens is the same data.

  One pass over the examples gives them. The data directory keeps them under the task's key.
  """
  key = fingerprint([task_key(task, split), dict(lengths)])
  path = directories.data_dir() / "content" / key
  with contextlib.suppress(OSError):
    return path.read_text()
  print(f"reading {task.name}/{split} once, so that a resumed run knows its data again", file=sys.stderr)
  digest = hashlib.sha256()
  for example in token_store.examples(task, split, sequence_length=dict(lengths), shuffle=False, num_epochs=1, seed=0,
                                      try_in_mem_cache=False):
    for name in sorted(task.output_features):
      digest.update(repr((name, example[name].dtype.str, example[name].shape)).encode())
      digest.update(example[name].tobytes())
  with contextlib.suppress(OSError):  # Without a place to keep them, each start reads once.
    path.parent.mkdir(parents=True, exist_ok=True)
    run_directory.write(path, digest.hexdigest()[:16].encode())
  return digest.hexdigest()[:16]


def _converted(
    config: "DatasetConfig", provider: "seqio.Task | seqio.Mixture", split: str, skip: int = 0, **options: Any
) -> Iterator[Batch]:
  """Examples after the feature converter, each of them a row without its B axis."""
  import seqio

  converters = {"lm": seqio.LMFeatureConverter, "prefix_lm": seqio.PrefixLMFeatureConverter}
  convert = converters[config.feature_converter](pack=config.pack)
  lengths = dict(config.task_feature_lengths)
  return token_store.examples(
      provider, split, lambda dataset: convert(dataset, lengths).skip(skip), sequence_length=lengths, **options)


def _stack(config: "DatasetConfig", rows: Sequence[int] | None, examples: list[Batch]) -> Batch:
  """This host's rows of the batch that up to B examples make; the rest of the rows are padding."""
  rows = range(config.batch_size) if rows is None else rows
  padding = {name: np.zeros_like(value) for name, value in examples[0].items() if name != "decoder_positions"}
  examples = [examples[row] if row < len(examples) else padding for row in rows]
  batch = {name: np.stack([example[name] for example in examples]) for name in padding}
  if not config.pack:
    # seqio numbers the examples of a row only where there are several; 0 is its padding in any vocabulary.
    batch["decoder_segment_ids"] = batch["decoder_target_tokens"] != 0
  return {name: value.astype(FEATURES.get(name, np.int32)) for name, value in batch.items()}
