"""Our batches as the datasets that t5x asks for: `get_dataset_fn` and `train_eval_get_dataset_fn`."""

from collections.abc import Iterator, Mapping
import itertools
import json
import re
from typing import Any

from clu.data import dataset_iterator
from etils import epath
from t5x import utils

from gpt4x.data.dataset import Batch, Dataset, DatasetConfig, DatasetIterator, host_rows
from gpt4x.errors import UserError


def get_dataset(cfg: utils.DatasetConfig, shard_id: int, num_shards: int, feature_converter_cls: Any = None,
                feature_converter: str = "stream", **unused: Any) -> "TrainBatches":
  """The training data of a t5x `DatasetConfig`, this shard's rows of it."""
  del feature_converter_cls, unused
  dataset, rows = _dataset(cfg, feature_converter), _rows(cfg, shard_id, num_shards)
  return TrainBatches(dataset.train(cfg.split, rows))


def get_eval_datasets(cfg: utils.DatasetConfig, shard_id: int, num_shards: int, eval_steps: int | None = None,
                      feature_converter_cls: Any = None, feature_converter: str = "stream",
                      **unused: Any) -> dict[str, "EvaluationBatches"]:
  """The evaluation data of a t5x `DatasetConfig`, `eval_steps` batches of it; None: all."""
  del feature_converter_cls, unused
  dataset, rows = _dataset(cfg, feature_converter), _rows(cfg, shard_id, num_shards)
  return {cfg.mixture_or_task_name: EvaluationBatches(dataset, cfg.split, rows, eval_steps)}


def _dataset(cfg: utils.DatasetConfig, feature_converter: str) -> Dataset:
  return Dataset(DatasetConfig(
      cfg.mixture_or_task_name, cfg.task_feature_lengths, cfg.batch_size, feature_converter,
      pack=cfg.pack and feature_converter != "stream", seed=cfg.seed or 0))


def _rows(cfg: utils.DatasetConfig, shard_id: int, num_shards: int) -> range:
  return host_rows(cfg.batch_size, shard_id, num_shards)


class TrainBatches(dataset_iterator.DatasetIterator):
  """Our endless batches as a clu iterator, whose saved state is our JSON.

  t5x draws the first batch before it saves the first checkpoint, and would so lose it for a run that is restored from
  there. Therefore a save looks at the step that it belongs to, which is in the name of its directory, and writes the
  position that this step had left.
  """

  def __init__(self, batches: DatasetIterator):
    self._batches = batches
    self._start = None  # The step at which the first batch was drawn, known by the first save or restore.
    state = batches.get_state()
    self._spec = _spec(next(batches))
    self.set_state(state)

  def __next__(self) -> Batch:
    batch = next(self._batches)
    self._states = {self._drawn: self._states[self._drawn], self._drawn + 1: self._batches.get_state()}
    self._drawn += 1
    return batch

  @property
  def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
    return self._spec

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a position that a stream of ours has saved, from either loop."""
    self._batches.set_state(state)
    self._states = {0: self._batches.get_state()}  # By the number of batches drawn; only the last two.
    self._drawn = 0

  def save(self, filename: epath.PathLike) -> None:
    step = _step_in(filename)
    if self._start is None:
      self._start = step
    state = self._states.get(step - self._start)
    if state is None:
      raise UserError(f"{filename} is to hold the data position of step {step}, but {self._drawn} batches were drawn"
                      f" since step {self._start}: save after each step's own batch")
    epath.Path(filename).write_text(json.dumps(state))

  def restore(self, filename: epath.PathLike) -> None:
    self.set_state(json.loads(epath.Path(filename).read_text()))
    self._start = _step_in(filename)

  load = restore  # Another name of it, which t5x uses.


class EvaluationBatches:
  """Batches that hold each example of a split once, from the start whenever they are iterated over."""

  def __init__(self, dataset: Dataset, split: str, rows: range, max_batches: int | None):
    self._open = lambda: itertools.islice(dataset.evaluation(split, rows), max_batches)

  def __iter__(self) -> Iterator[Batch]:
    return self._open()

  @property
  def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
    return _spec(next(self._open()))


def _spec(batch: Batch) -> dict[str, dataset_iterator.ArraySpec]:
  return {name: dataset_iterator.ArraySpec(value.dtype, value.shape) for name, value in batch.items()}


def _step_in(filename: epath.PathLike) -> int:
  return int(re.findall(r"checkpoint_(\d+)", str(filename))[-1])
