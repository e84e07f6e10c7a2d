"""TrainingArguments: how a Trainer trains, by the names of transformers, and what they are in our own TrainConfig."""

from collections.abc import Sequence
import dataclasses
import math
import sys
from typing import Any

from gpt4x.checkpoints.manager import CheckpointConfig
from gpt4x.errors import nearest, refuse, require, UserError
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.optimizers import Optimizer
from gpt4x.training.trackers.mlflow import MLflow
from gpt4x.training.trackers.tensorboard import TensorBoard
from gpt4x.training.trackers.tracker import Tracker
from gpt4x.training.trackers.weights_and_biases import WeightsAndBiases

# Names of transformers that would change nothing here: they are about torch, its loaders and its displays.
_IGNORED = frozenset((
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "ddp_find_unused_parameters", "disable_tqdm", "do_eval", "do_predict", "do_train", "eval_accumulation_steps",
    "full_determinism", "log_level", "logging_dir", "logging_first_step", "prediction_loss_only",
    "remove_unused_columns", "run_name", "save_safetensors", "tf32", "torch_compile", "torch_empty_cache_steps"))
_WHEN = "no", "steps", "epoch"
_SCHEDULES = "linear", "cosine", "constant", "constant_with_warmup"
_TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
_NEVER = 2**31 - 1


@dataclasses.dataclass(init=False)
class TrainingArguments:
  """How a Trainer trains.

  The batch of an update is per_device_train_batch_size rows on each device that splits it, times
  gradient_accumulation_steps.
  """

  output_dir: str = "trainer_output"  # The model directory of the run, as `gpt4x train --model_dir` has it.
  overwrite_output_dir: bool = False  # Sets a run that is there aside, as OUTPUT_DIR.aside, and starts anew.
  num_train_epochs: float = 3.0
  max_steps: int = -1  # Updates; above 0 it counts in place of num_train_epochs.
  per_device_train_batch_size: int = 8
  per_device_eval_batch_size: int = 8  # For `evaluate`; the evaluations of a training have its batch.
  gradient_accumulation_steps: int = 1  # Parts of a batch whose gradients are summed in turn.
  learning_rate: float = 5e-5
  weight_decay: float = 0.0  # Of projections and embedding tables, not of norms and biases.
  adam_beta1: float = 0.9
  adam_beta2: float = 0.999
  adam_epsilon: float = 1e-8
  max_grad_norm: float | None = 1.0  # Global norm that gradients are scaled down to; 0 or None: they are not.
  optim: str = "adamw_torch"  # Any of the names for AdamW.
  lr_scheduler_type: str = "linear"
  warmup_steps: int = 0
  warmup_ratio: float = 0.0  # Of all steps, where warmup_steps is 0.
  logging_strategy: str = "steps"
  logging_steps: int = 500
  eval_strategy: str = "no"
  evaluation_strategy: str | None = None  # The older name of eval_strategy.
  eval_steps: int | None = None  # None: logging_steps.
  save_strategy: str = "steps"  # The last step is saved in any case.
  save_steps: int = 500
  save_total_limit: int | None = None  # Checkpoints that are kept, the newest; None: all.
  seed: int = 42  # Of the order of examples, of masks, and of dropout.
  data_seed: int | None = None  # Of the order and the masks alone; None: seed.
  bf16: bool = False  # Computes in bfloat16; else as the model's dtype says, which is bfloat16 on accelerators.
  gradient_checkpointing: bool = False  # Computes activations again in the backward pass, which takes less memory.
  report_to: str | Sequence[str] | None = "tensorboard"  # Or 'wandb', 'mlflow', several of them, or 'none'.
  partitioner: Partitioner | None = None  # Ours alone: another mesh than all devices with the batch split over them.

  def __init__(self, output_dir: str = "trainer_output", **values: Any):
    """Takes any of the fields above by its name.

    Raises:
      UserError: for a name or a value that there is not. Names of transformers that would change nothing here are left
        out, with a line on standard error.
    """
    fields = {field.name: field.default for field in dataclasses.fields(self)}
    if ignored := sorted(_IGNORED & values.keys()):
      print(f"gpt4x: TrainingArguments: {', '.join(ignored)} {'has' if len(ignored) == 1 else 'have'} no effect here",
            file=sys.stderr)
    for name in values.keys() - fields.keys() - _IGNORED:
      raise UserError(f"TrainingArguments has no {name} here{nearest(name, fields)}")
    for name, default in fields.items():
      setattr(self, name, values.get(name, default))
    self.output_dir = output_dir
    self._check()

  def _check(self) -> None:
    if self.evaluation_strategy is not None:
      refuse(self, self.eval_strategy not in ("no", self.evaluation_strategy), "evaluation_strategy",
             f"beside eval_strategy = {self.eval_strategy!r}: leave out the first, which is its older name")
      self.eval_strategy = self.evaluation_strategy
    require(self, "a whole number from 1", lambda size: size >= 1 and size == int(size), "per_device_train_batch_size",
            "per_device_eval_batch_size", "gradient_accumulation_steps", "logging_steps", "eval_steps", "save_steps",
            "save_total_limit")
    require(self, "above 0", lambda count: count > 0, "num_train_epochs")
    require(self, "a whole number above 0, or -1", lambda count: (count > 0 or count == -1) and count == int(count),
            "max_steps")
    require(self, "at least 0 and below 1", lambda share: 0 <= share < 1, "adam_beta1", "adam_beta2", "warmup_ratio")
    require(self, "a whole number from 0", lambda count: count >= 0 and count == int(count), "warmup_steps", "seed",
            "data_seed")
    require(self, "0 or more", lambda value: value >= 0, "learning_rate", "weight_decay")
    require(self, "above 0", lambda value: value > 0, "adam_epsilon")
    refuse(self, (self.max_grad_norm or 0) < 0, "max_grad_norm", "must be 0 or more, or None")
    for name in ("logging_strategy", "eval_strategy", "save_strategy"):
      refuse(self, getattr(self, name) not in _WHEN, name, f"is unknown: use one of {', '.join(_WHEN)}")
    refuse(self, self.lr_scheduler_type not in _SCHEDULES, "lr_scheduler_type",
           f"is unknown here: use one of {', '.join(_SCHEDULES)}, or train with `gpt4x train` for others")
    refuse(self, not self.optim.startswith("adamw"), "optim",
           "is not AdamW: leave it out, or train with `gpt4x train` for other optimizers")
    _ = self.trackers

  # What our own loop is told.

  def total_steps(self, examples: int, batch_size: int) -> int:
    return self.max_steps if self.max_steps > 0 else max(1, math.ceil(examples * self.num_train_epochs / batch_size))

  def period(self, what: str, steps: int | None, steps_per_epoch: int) -> int | None:
    """Steps between events of a kind: 'logging', 'eval' or 'save'; None: there are none."""
    strategy = getattr(self, f"{what}_strategy")
    return {"no": None, "steps": steps, "epoch": steps_per_epoch}[strategy]

  def optimizer(self, total_steps: int) -> Optimizer:
    peak, warmup = self.learning_rate, self.warmup_steps or math.ceil(total_steps * self.warmup_ratio)
    schedule = {
        "linear": lambda: optimizers.warmup_linear(peak, warmup, total_steps),
        "cosine": lambda: optimizers.warmup_cosine(peak, warmup, total_steps, final_fraction=0.0),
        "constant": lambda: optimizers.constant(peak),
        "constant_with_warmup": lambda: optimizers.warmup_stable_decay(peak, warmup, 0, total_steps),
    }[self.lr_scheduler_type]()
    return optimizers.adamw(schedule, b1=self.adam_beta1, b2=self.adam_beta2, eps=self.adam_epsilon,
                            weight_decay=self.weight_decay)

  def checkpoints(self, steps_per_epoch: int) -> CheckpointConfig:
    return CheckpointConfig(self.period("save", self.save_steps, steps_per_epoch) or _NEVER,
                            self.save_total_limit or _NEVER)

  @property
  def trackers(self) -> tuple[Tracker, ...]:
    """What the run is shown by."""
    given = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or ())
    given = list(_TRACKERS) if given == ["all"] else [name for name in given if name != "none"]
    for name in given:
      if name not in _TRACKERS:
        raise UserError(f"TrainingArguments.report_to = {self.report_to!r}: there is no {name}"
                        f"{nearest(str(name), (*_TRACKERS, 'none'))}")
    return tuple(_TRACKERS[name]() for name in given)
