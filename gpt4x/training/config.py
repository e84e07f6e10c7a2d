"""TrainConfig: what a training run is told, beside its directory."""

import dataclasses
import functools
import re

import gin
import jax

from gpt4x.checkpoints.manager import CheckpointConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched
from gpt4x.training.optimizers import Optimizer
from gpt4x.training.state import everything, select
from gpt4x.training.step import AfterUpdate, TrainStep


@gin.configurable("train")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run; gin knows it as `train`.

  Attributes:
    experiment: the model, its data and the objective.
    optimizer: see optimizers.py; schedules are part of it.
    total_steps: optimizer steps of the whole run.
    partitioner: the mesh; None: every device splits the batch.
    checkpoints: when to save, what to keep. The last step is always saved.
    seed: of parameters and dropout. Step t uses nothing but (seed, t), so a resumed run repeats no draw.
    microbatches: groups of rows whose gradients are summed in turn.
    clip_norm: global norm that gradients are scaled down to; None: they are not.
    trained: a regular expression that the names of trained parameters match, such as 'layers/.*'; None: all are.
    after_update: functions that change the parameters after each update, in turn, beside the model's own.
    log_period: steps between reports, each of the last step's loss.
    eval_period: steps between evaluations, the first before any step; the last step is always evaluated. None: never.
    eval_batches: batches of an evaluation; None: the whole split.
    eval_split: the split to evaluate.
    init_from: the model directory of another run, whose newest parameters a new run starts from (fine-tuning).
  """

  experiment: Experiment = gin.REQUIRED
  optimizer: Optimizer = gin.REQUIRED
  total_steps: int = gin.REQUIRED
  partitioner: Partitioner | None = None
  checkpoints: CheckpointConfig = CheckpointConfig()
  seed: int = 0
  microbatches: int = 1
  clip_norm: float | None = 1.0
  trained: str | None = None
  after_update: tuple[AfterUpdate, ...] = ()
  log_period: int = 10
  eval_period: int | None = None
  eval_batches: int | None = None
  eval_split: str = "validation"
  init_from: str | None = None

  def __post_init__(self):
    for name in ("microbatches", "log_period"):
      if getattr(self, name) < 1:
        raise UserError(f"train.{name} = {getattr(self, name)} must be at least 1")
    if self.partitioner is None:
      object.__setattr__(self, "partitioner", Partitioner())

  @functools.cached_property
  def step(self) -> TrainStep:
    """The step that is trained with."""
    trained = everything
    if self.trained is not None:
      trained = functools.partial(_matches, re.compile(self.trained))
      if not jax.tree.leaves(select(self.experiment.model.declared[0], trained)[0]):
        raise UserError(f"train.trained = {self.trained!r} matches no parameter: it is matched with whole names, such as"
                        " 'layers/attention/query'")
    return TrainStep(self.experiment.model, self.experiment.objective, self.optimizer, self.clip_norm,
                     microbatched(self.microbatches), trained, tuple(self.after_update), self.seed)


def _matches(pattern: re.Pattern, name: str) -> bool:
  return pattern.fullmatch(name) is not None
