"""Batches of examples for fine-tuning: one example a row, or several packed, through seqio's feature converters."""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import itertools
import sys
from typing import Any, Protocol, TYPE_CHECKING

import numpy as np

from gpt4x.data import prepared
from gpt4x.data.changes import changes
from gpt4x.data.fingerprint import files_of, fingerprint, identify
from gpt4x.data.stream import check_state, FEATURES
from gpt4x.data.task_examples import Cuts, errors_of, examples, say_once
from gpt4x.data.tokenization import empty, warn_of_old

if TYPE_CHECKING:
  import seqio

Batch = dict[str, np.ndarray]


class Layout(Protocol):
  """What counts of a DatasetConfig here."""

  @property
  def task_feature_lengths(self) -> Mapping[str, int]: ...
  @property
  def batch_size(self) -> int: ...
  @property
  def feature_converter(self) -> str: ...
  @property
  def pack(self) -> bool: ...
  @property
  def seed(self) -> int: ...
  @property
  def repeat(self) -> int: ...


class Examples:
  """Endless batches of examples, in another order each epoch; a batch may end one epoch and begin the next.

  The position is (epoch, examples taken), and a resumed run reads past the examples taken. A mixture is one endless
  epoch, since its tasks end at different times. Every host reads all examples and keeps its `rows`, so that the order
  does not depend on the number of hosts: tokenizing is cheap beside training.
  """

  def __init__(self, config: Layout, provider: "seqio.Task | seqio.Mixture", split: str,
               rates: Mapping["seqio.Task", float], rows: Sequence[int] | None):
    self._config, self._provider, self._split, self._rows = config, provider, split, rows
    self._num_epochs = 1 if list(rates) == [provider] else None
    self._tasks = {f"{task.name}/{split}": _content(task, split, config.task_feature_lengths) for task in rates}
    names = "feature_converter", "batch_size", "task_feature_lengths", "pack", "seed"
    self._identity = {name: getattr(config, name) for name in names} | (
        {"repeat": config.repeat} if config.repeat > 1 else {}) | {  # Earlier runs know nothing of it.
        "task_feature_lengths": dict(config.task_feature_lengths), "rates": list(rates.values()),
        "content": [facts["content"] for facts in self._tasks.values()]}
    self._rewind(0, 0)

  def _rewind(self, epoch: int, taken: int) -> None:
    self._epoch, self._taken = epoch, taken
    seed = int(fingerprint([self._config.seed, epoch])[:7], 16)
    self._examples = _converted(self._config, self._provider, self._split, skip=taken, shuffle=True, seed=seed,
                                num_epochs=self._num_epochs)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    found: list[Batch] = []
    while len(found) < self._config.batch_size:
      example = next(self._examples, None)
      if example is not None:
        found += [example] * self._config.repeat
        self._taken += 1
      elif self._taken:
        self._rewind(self._epoch + 1, 0)
      else:
        raise empty(self._provider, self._split)
    return _stack(self._config, self._rows, found)

  def get_state(self) -> dict[str, Any]:
    return {**self._identity, "tasks": self._tasks, "epoch": self._epoch, "taken": self._taken}

  def set_state(self, state: dict[str, Any]) -> None:
    check_state(state, self._identity, lambda: changes(state.get("tasks"), self._tasks))
    self._rewind(state["epoch"], state["taken"])


def once(config: Layout, tasks: Sequence["seqio.Task"], split: str, rows: Sequence[int] | None) -> Iterator[Batch]:
  """Batches that hold each example of the tasks once; padding fills up the last."""
  cuts = {task: Cuts(_lengths(config, task)) for task in tasks}
  found = itertools.chain.from_iterable(
      _converted(config, task, split, cuts=cuts[task], shuffle=False, num_epochs=1, seed=0) for task in tasks)
  group = list(itertools.islice(found, config.batch_size))
  if not group:
    raise empty(tasks[0], split)
  try:
    while group:
      yield _stack(config, rows, group)
      group = list(itertools.islice(found, config.batch_size))
  finally:
    for task in tasks:
      _report_cuts(task, split, config.task_feature_lengths, *cuts[task].found())


def _content(task: "seqio.Task", split: str, lengths: Mapping[str, int]) -> dict[str, Any]:
  """The number of a split's examples, and a hash of all features' tokens; the data directory keeps them."""
  with errors_of(task, split):
    key, unseen = identify(task, split)
    path = prepared.place("content", task.name, split, fingerprint([key, dict(lengths)]))
    note = prepared.read_note(path)
    if not note:
      note = _read_content(task, split, lengths) | {"name": f"{task.name}/{split}", "files": files_of(task, split)}
      prepared.write_note(path, note)  # Without a place to keep it, each start reads once.
    else:
      warn_of_old(f"what is known of {task.name}/{split}", path, prepared.day_of(note["made"]), unseen)
      prepared.note_use(path)
  _report_cuts(task, split, lengths, note["examples"], note["cut"], note["longest"])
  return {"content": note["content"], "examples": note["examples"]}


def _read_content(task: "seqio.Task", split: str, lengths: Mapping[str, int]) -> dict[str, Any]:
  print(f"reading {task.name}/{split} once, so that a resumed run can tell its data from other data", file=sys.stderr)
  digest, count, cut, longest = hashlib.sha256(), 0, dict.fromkeys(lengths, 0), dict.fromkeys(lengths, 0)
  for example in examples(task, split, sequence_length=dict(lengths), shuffle=False, num_epochs=1, seed=0,
                          try_in_mem_cache=False, trim_output_features=False):
    count += 1
    for name in sorted(task.output_features):
      tokens = example[name]
      if name in lengths:
        cut[name] += len(tokens) > lengths[name]
        longest[name] = max(longest[name], len(tokens))
        tokens = tokens[:lengths[name]]
      digest.update(repr((name, tokens.dtype.str, tokens.shape)).encode())
      digest.update(tokens.tobytes())
  return {"content": digest.hexdigest()[:16], "examples": count, "cut": cut, "longest": longest}


def _report_cuts(task: "seqio.Task", split: str, lengths: Mapping[str, int], count: int, cut: Mapping[str, int],
                 longest: Mapping[str, int]) -> None:
  for name, number in cut.items():
    if number and name in lengths:  # What is beside the targets is as long as they are.
      say_once(f"gpt4x: warning: {task.name}/{split}: {number:,} of {count:,} examples have more than {lengths[name]}"
               f" tokens of {name}, at most {longest[name]:,}, and are cut there: raise TASK_FEATURE_LENGTHS or let the"
               " task split them")


def beside_of(provider: "seqio.Task | seqio.Mixture") -> tuple[str, ...]:
  """What a task knows of each token of its targets; see feature_converters.py."""
  from gpt4x.data import feature_converters
  found = tuple(name for name in feature_converters.BESIDE if name in provider.output_features)
  return found if "weights" in found else ()


def _lengths(config: Layout, provider: "seqio.Task | seqio.Mixture") -> dict[str, int]:
  lengths = config.task_feature_lengths
  masked = ("inputs",) if config.feature_converter == "masked_lm" else ()
  return {**lengths, **dict.fromkeys((*beside_of(provider), *masked), lengths["targets"])}


def _converted(config: Layout, provider: "seqio.Task | seqio.Mixture", split: str, skip: int = 0,
               cuts: Cuts | None = None, **options: Any) -> Iterator[Batch]:
  """Examples after the feature converter, [L] each feature."""
  from gpt4x.data import feature_converters, vocabularies

  beside, lengths = beside_of(provider), _lengths(config, provider)
  bos_id = vocabularies.start_id(provider.output_features["targets"].vocabulary)
  converter = feature_converters.converter(config.feature_converter, beside, config.pack, bos_id)

  def convert(dataset):
    return converter(cuts.trim(dataset) if cuts else dataset, lengths).skip(skip)

  return examples(provider, split, convert, sequence_length=lengths, trim_output_features=not cuts, **options)


def _stack(config: Layout, rows: Sequence[int] | None, found: list[Batch]) -> Batch:
  """This host's rows of a batch of up to B examples; the other rows are padding."""
  rows = range(config.batch_size) if rows is None else rows
  padding = {name: np.zeros_like(value) for name, value in found[0].items() if name != "decoder_positions"}
  found = [found[row] if row < len(found) else padding for row in rows]
  batch = {name: np.array([example[name] for example in found], value.dtype).reshape(-1, *value.shape)
           for name, value in padding.items()}
  if config.feature_converter == "causal_lm":
    del batch["decoder_causal_attention"]  # What sees both directions in prefix_lm.
  if "decoder_segment_ids" not in batch:
    # seqio numbers the examples of a row only if it packs them; token 0 is its padding in any vocabulary.
    batch["decoder_segment_ids"] = batch["decoder_target_tokens"] != 0
  return {name: value.astype(FEATURES.get(name, np.int32)) for name, value in batch.items()}
