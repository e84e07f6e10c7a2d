"""TrainConfig: what a training run is told, beside its directory."""

import dataclasses
import functools
import re
from typing import Literal

import gin
import jax

from gpt4x.checkpoints.manager import CheckpointConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched
from gpt4x.training.optimizers import Optimizer
from gpt4x.training.state import everything, select, Trained
from gpt4x.training.step import AfterUpdate, TrainStep


@gin.configurable("train")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run; gin knows it as `train`."""

  experiment: Experiment = gin.REQUIRED  # The model, its data and the objective.
  optimizer: Optimizer = gin.REQUIRED  # See optimizers.py; schedules are part of it.
  total_steps: int = gin.REQUIRED  # Optimizer steps of the whole run.
  partitioner: Partitioner = dataclasses.field(default_factory=Partitioner)  # The mesh.
  checkpoints: CheckpointConfig = CheckpointConfig()  # When to save and what to keep. The last step is always saved.
  seed: int = 0  # Of parameters and dropout. Step t uses nothing but (seed, t), so a resumed run repeats no draw.
  microbatches: int = 1  # Groups of rows whose gradients are summed in turn.
  clip_norm: float | None = 1.0  # Global norm that gradients are scaled down to; None: they are not.
  # A regular expression that the names of trained parameters match, such as 'layers/.*'; None: all are trained.
  trained: str | None = None
  # Functions that change the parameters after each update, in turn; the model's own come first.
  after_update: tuple[AfterUpdate, ...] = ()
  # What is done about an update that is not finite: the run ends, with nothing of it saved, or the update is left out,
  # unless as many in a row were. Leaving out takes room for a second copy of parameters and optimizer state.
  on_nonfinite: Literal["stop", "skip"] = "stop"
  max_skipped: int = 10
  log_period: int = 10  # Steps between reports, each of the last step's loss.
  # Steps between evaluations, the first before any step; the last step is always evaluated. None: no evaluation.
  eval_period: int | None = None
  eval_batches: int | None = None  # Batches of an evaluation; None: the whole split.
  eval_split: str = "validation"
  init_from: str | None = None  # The directory of a run whose newest parameters a new run starts from (fine-tuning).

  def __post_init__(self):
    for name in ("microbatches", "log_period", "max_skipped"):
      if getattr(self, name) < 1:
        raise UserError(f"train.{name} = {getattr(self, name)} must be at least 1")
    if self.on_nonfinite not in ("stop", "skip"):
      raise UserError(f"train.on_nonfinite = {self.on_nonfinite!r} is not known: use 'stop' or 'skip'")
    object.__setattr__(self, "partitioner", self.partitioner or Partitioner())  # A gin file may say None.

  @functools.cached_property
  def step(self) -> TrainStep:
    """The step that is trained with."""
    trained: Trained = everything
    if self.trained is not None:
      pattern = re.compile(self.trained)
      trained = lambda name: pattern.fullmatch(name) is not None
      if not jax.tree.leaves(select(self.experiment.model.declared[0], trained)[0]):
        raise UserError(f"train.trained = {self.trained!r} matches no parameter: it is matched with whole names, such"
                        " as 'layers/attention/query'")
    return TrainStep(self.experiment.model, self.experiment.objective, self.optimizer, self.clip_norm,
                     microbatched(self.microbatches), trained, tuple(self.after_update), self.seed, self.on_nonfinite)
