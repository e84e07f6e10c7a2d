"""TrainConfig: what a training run is told, beside its directory."""

import dataclasses
import functools
import re
import sys
from typing import ClassVar, Literal

import gin
import jax

from gpt4x.checkpoints.manager import CheckpointConfig
from gpt4x.configuration import config_text, objects
from gpt4x.errors import require, UserError
from gpt4x.experiment import Experiment
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched
from gpt4x.training.optimizers import Optimizer
from gpt4x.training.state import everything, select, Trained
from gpt4x.training.step import AfterUpdate, TrainStep
from gpt4x.training.trackers.tensorboard import TensorBoard
from gpt4x.training.trackers.tracker import Tracker


@gin.configurable("train")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run; gin knows it as `train`."""

  GIN_NAME: ClassVar[str] = "train"

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
  whole_final_eval: bool = False  # Whether the last evaluation, at total_steps, is of the whole split in any case.
  eval_split: str = "validation"
  eval_samples: int = 0  # Media that each evaluation draws for the conditions of its split; see `sample_media`.
  trackers: tuple[Tracker, ...] = (TensorBoard(),)  # What gets the metrics beside metrics.jsonl.
  init_from: str | None = None  # The directory of a run whose newest parameters a new run starts from (fine-tuning).
  # The gin text that this was read from; lost as soon as anything is replaced.
  read_from: str | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

  def __post_init__(self):
    require(self, "a whole number from 1 to 2**31 - 1", lambda steps: 1 <= steps < 2**31 and steps == int(steps),
            "total_steps", "eval_period", "eval_batches", "microbatches",
            "log_period", "max_skipped")
    require(self, "a whole number from 0", lambda number: number >= 0 and number == int(number), "eval_samples")
    # JAX drops higher bits.
    require(self, "a whole number from 0 to 2**32 - 1", lambda seed: 0 <= seed < 2**32 and seed == int(seed), "seed")
    require(self, "'stop' or 'skip'", lambda what: what in ("stop", "skip"), "on_nonfinite")
    try:
      re.compile(self.trained or "")
    except (re.error, RecursionError) as error:
      raise UserError(f"train.trained = {self.trained!r} is no regular expression ({error}): correct it") from error
    if self.clip_norm is not None:
      require(self, "above 0, or None", lambda norm: norm > 0, "clip_norm")
    model = self.experiment.model
    if isinstance(model, LanguageModel) and model.form is not None and model.form.stored:
      raise UserError("LanguageModel.form has integers, which no gradient moves: start a run from this one"
                      " (train.init_from) with LanguageModel.form = None, or with Quantization.stored = False to train"
                      " for integers")
    object.__setattr__(self, "trackers", tuple(self.trackers))  # A gin file may give a list.
    object.__setattr__(self, "partitioner", self.partitioner or Partitioner())  # A gin file may say None.

  @functools.cached_property
  def gin_text(self) -> str:
    """Gin text that says this very run, from which later commands read it.

    Raises:
      UserError: if gin has no words for a part of the experiment, which evaluation needs too.
    """
    if self.read_from is not None:
      if self.read_from != config_text():  # What is read late, such as the files of a corpus, would be another run's.
        raise UserError("gin has been read again since this run was: read the run that is to be trained last")
      return self.read_from
    text, lacking = objects.text_of(self, may_lack=("optimizer", "after_update"))
    if lacking:
      print(f"gpt4x: warning: {' and '.join(lacking)} cannot be written as gin: eval and generate read this run, but"
            " only this program continues it", file=sys.stderr)
    return text

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
