"""Experiment: what an experiment file names, whichever loop or command reads it."""

import dataclasses
from typing import Any

import gin
import jax

from gpt4x.data import pipeline
from gpt4x.errors import UserError
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training.checkpoints import Checkpoints


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Experiment:
  """A model and the data it is trained on."""

  model: LanguageModel
  dataset: pipeline.DatasetConfig

  @property
  def memory_length(self) -> int:
    """The training memory; none for examples, which stand alone."""
    return self.model.config.memory_length if self.dataset.carries_memory else 0

  @property
  def eval_memory_length(self) -> int:
    return self.model.config.eval_memory_length if self.dataset.carries_memory else 0

  def check_vocabulary(self) -> None:
    """Raises UserError if the data may hold a token that the model has no embedding for."""
    size, room = pipeline.vocabulary(self.dataset).vocab_size, self.model.config.vocab_size
    if size > room:
      raise UserError(
          f"TransformerConfig.vocab_size = {room} is smaller than the {size} ids of the vocabulary of"
          f" {self.dataset.mixture_or_task_name}: make it at least {size}")

  def restore_params(self, model_dir: str, partitioner: Partitioner, step: int | None = None) -> tuple[int, Any]:
    """(step, params) of a checkpoint, the newest if step is None, laid out on the partitioner's mesh."""
    shapes = jax.eval_shape(self.model.init, jax.random.key(0))
    shardings = partitioner.param_shardings(shapes, self.model.param_axes())
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings)
    return Checkpoints(model_dir).restore_params(abstract, step)
