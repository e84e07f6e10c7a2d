"""Our batches as the datasets that t5x asks for: `get_dataset_fn` and `train_eval_get_dataset_fn`."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
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
                feature_converter: Any = "stream", **unused: Any) -> "TrainBatches":
  """This shard's rows of the training data of a t5x `DatasetConfig`."""
  del feature_converter_cls, unused
  return TrainBatches(_dataset(cfg, feature_converter).train(
      cfg.split, host_rows(cfg.batch_size, shard_id, num_shards)))


def get_eval_datasets(cfg: utils.DatasetConfig, shard_id: int, num_shards: int, eval_steps: int | None = None,
                      feature_converter_cls: Any = None, feature_converter: Any = "stream",
                      **unused: Any) -> dict[str, "EvaluationBatches"]:
  """This shard's rows of `eval_steps` batches (None: all) of the evaluation data of a t5x `DatasetConfig`."""
  del feature_converter_cls, unused
  dataset, rows = _dataset(cfg, feature_converter), host_rows(cfg.batch_size, shard_id, num_shards)
  return {cfg.mixture_or_task_name: EvaluationBatches(
      lambda: itertools.islice(dataset.evaluation(cfg.split, rows), eval_steps))}


def _dataset(cfg: utils.DatasetConfig, feature_converter: Any) -> Dataset:
  return Dataset(DatasetConfig(
      cfg.mixture_or_task_name, cfg.task_feature_lengths, cfg.batch_size, feature_converter,
      pack=cfg.pack and feature_converter != "stream", seed=cfg.seed or 0))


class TrainBatches(dataset_iterator.DatasetIterator):
  """Our endless batches as a clu iterator, whose saved state is our JSON.

  t5x draws the first batch before it saves the first checkpoint, so a run restored from there would miss that batch.
  Therefore `save` takes the step from the name of the checkpoint's directory and writes the position after that step.
  """

  def __init__(self, batches: DatasetIterator):
    self._batches = batches
    self._start: int | None = None  # The step at which the first batch was drawn; the first save or restore tells.
    self._drawn, self._states = 0, {0: batches.get_state()}  # The last two states, by batches drawn.
    self._spec = _spec(next(batches))
    batches.set_state(self._states[0])

  def __next__(self) -> Batch:
    batch = next(self._batches)
    self._states = {self._drawn: self._states[self._drawn], self._drawn + 1: self._batches.get_state()}
    self._drawn += 1
    return batch

  @property
  def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
    return self._spec

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position that either loop has saved."""
    self._batches.set_state(state)
    self._drawn, self._states = 0, {0: self._batches.get_state()}

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

  load = restore  # t5x uses both names.


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
  """Batches that can be iterated over again and again, each time from the first one."""

  open_batches: Callable[[], Iterator[Batch]]

  def __iter__(self) -> Iterator[Batch]:
    return self.open_batches()

  @property
  def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
    return _spec(next(iter(self)))


def _spec(batch: Batch) -> dict[str, dataset_iterator.ArraySpec]:
  return {name: dataset_iterator.ArraySpec(value.dtype, value.shape) for name, value in batch.items()}


def _step_in(filename: epath.PathLike) -> int:
  return int(re.findall(r"checkpoint_(\d+)", str(filename))[-1])
