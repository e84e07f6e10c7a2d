"""Trainer: trains a GPT4LMHeadModel on a program's own examples, by the loop that `gpt4x train` has."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import os
import pathlib
import re
import time
from typing import Any, NamedTuple

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import jax
import numpy as np
import seqio

from gpt4x import storage
from gpt4x.api import collated, layout
from gpt4x.api.arguments import TrainingArguments
from gpt4x.api.collated import Collated
from gpt4x.api.collators import DefaultCollator
from gpt4x.api.examples import Examples
from gpt4x.api.model import GPT4LMHeadModel
from gpt4x.api.tokenizer import GPT4Tokenizer
from gpt4x.checkpoints.aside import set_aside
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.data import vocabularies
from gpt4x.data.task_examples import say_once
from gpt4x.errors import UserError
from gpt4x.evaluation.likelihood import Evaluator
from gpt4x.experiment import Experiment
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training import loop
from gpt4x.training.config import TrainConfig
from gpt4x.training.metrics import read_metrics
from gpt4x.training.preemption import INTERRUPTED

INITIAL = "initial"  # The folder of a run with the weights that it starts from, where no other directory has them.
_REFUSED = "callbacks", "optimizers", "model_init", "compute_loss_func", "preprocess_logits_for_metrics", \
           "optimizer_cls_and_kwargs"


class TrainOutput(NamedTuple):
  """What training came to; `training_loss` is the mean of the losses that were logged."""

  global_step: int
  training_loss: float
  metrics: dict[str, float]


class EvalPrediction(NamedTuple):
  """What `compute_metrics` is given: the logits [N, n, V], as the model's call gives them, and the labels [N, n]."""

  predictions: np.ndarray
  label_ids: np.ndarray


class PredictionOutput(NamedTuple):
  """The logits and labels of a dataset, and their metrics."""

  predictions: np.ndarray
  label_ids: np.ndarray
  metrics: dict[str, float]


@dataclasses.dataclass
class TrainerState:
  """Where a training is: updates done, of how many; epochs done; what was logged."""

  global_step: int = 0
  max_steps: int = 0
  epoch: float = 0.0
  log_history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Trainer:
  """Trains a model, evaluates it, and keeps the run in args.output_dir.

  That is a model directory as `gpt4x train` makes it: `gpt4x generate --model_dir` reads it, and from_pretrained. The
  data is this program's, so this program alone continues the run.
  """

  def __init__(self, model: GPT4LMHeadModel | None = None, args: TrainingArguments | None = None,
               data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None, train_dataset: Any = None,
               eval_dataset: Any = None, processing_class: GPT4Tokenizer | None = None, *,
               tokenizer: GPT4Tokenizer | None = None,
               compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None, **others: Any):
    """Takes what is trained, and on what.

    Args:
      model: whose `params` become the trained ones.
      args: how it is trained.
      data_collator: makes arrays of examples; None: they are padded, and their labels are those that they have, or all
        of their tokens. One with mlm=True has its tokens see each other.
      train_dataset, eval_dataset: any objects with a length, and items by number: ids, or dicts with input_ids.
      processing_class: the tokenizer; without one, the collator's or the model's own vocabulary.
      tokenizer: the older name of processing_class.
      compute_metrics: metrics of an EvalPrediction, for `evaluate` and `predict`.
    """
    if tokenizer is not None and processing_class is not None:
      raise UserError("Trainer was given tokenizer and processing_class, two names of one thing: leave either out")
    for name, value in others.items():
      if name not in _REFUSED:
        raise UserError(f"Trainer takes no {name}: leave it out")
      if value not in (None, [], (None, None)):
        raise UserError(f"Trainer takes no {name} here: leave it out, or write a TrainConfig (docs/python.md)")
    if not isinstance(model, GPT4LMHeadModel):
      raise UserError(f"Trainer trains a GPT4LMHeadModel, not a {type(model).__name__}: give it one as model")
    self.model, self.args, self.compute_metrics = model, args or TrainingArguments(), compute_metrics
    found = processing_class or tokenizer or getattr(data_collator, "tokenizer", None) or (
        GPT4Tokenizer(model.vocabulary) if model.vocabulary is not None else None)
    if not isinstance(found, GPT4Tokenizer):
      raise UserError("Trainer needs the tokenizer that the examples come from, which the run keeps: give it a"
                      " GPT4Tokenizer as tokenizer")
    self.processing_class = found
    self.data_collator: Any = data_collator or DefaultCollator(self.processing_class)
    self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
    self.mlm = bool(getattr(data_collator, "mlm", False))
    self.state = TrainerState()
    self._check_vocabulary()
    self._train = None if train_dataset is None else Examples(train_dataset, "train_dataset")
    self._eval = None if eval_dataset is None else Examples(eval_dataset, "eval_dataset")
    if self.args.eval_strategy != "no" and self._eval is None:
      raise UserError(f"TrainingArguments.eval_strategy = {self.args.eval_strategy!r} needs an eval_dataset: give the"
                      " Trainer one, or set it to 'no'")

  @property
  def tokenizer(self) -> GPT4Tokenizer:
    return self.processing_class

  def _check_vocabulary(self) -> None:
    own, given = self.model.vocabulary, self.processing_class.vocabulary
    if own is None or own is given or vocabularies.alike(own, given):
      self.model.speaks(given)
      return
    # Bytes are the same ones whatever extra ids follow, such as one for a mask.
    if not (isinstance(own, seqio.ByteVocabulary) and isinstance(given, seqio.ByteVocabulary)):
      raise UserError(f"the tokenizer has the vocabulary {vocabularies.describe(given)}, but the model"
                      f" {vocabularies.describe(own)}: take the model's own tokenizer")
    self.model.params = self.model.params  # Its directory says another vocabulary.
    self.model.speaks(given)

  # What the loop is told.

  @functools.cached_property
  def _partitioner(self) -> Partitioner:
    return self.args.partitioner or Partitioner()

  @property
  def _batch_size(self) -> int:
    args = self.args
    return args.per_device_train_batch_size * self._partitioner.num_batch_shards * args.gradient_accumulation_steps

  def _experiment(self, train: Examples | None, evaluation: Examples | None, batch_size: int) -> Experiment:
    """The model and examples; one length of rows fits all of these."""
    given, config = [one for one in (train, evaluation) if one is not None], self.model.config
    for one in given:
      layout.check_ids(one.name, np.array(one.ids), config.vocab_size)
    length = max(_width(self.data_collator, one) for one in given)
    if length > config.n_positions:
      raise UserError(f"the longest example makes a row of {length} tokens, and a token of the model sees n_positions ="
                      f" {config.n_positions}: make examples shorter, or the model with a larger n_positions, as"
                      " from_pretrained(NAME, n_positions=...) does")
    transformer = config.transformer
    if self.args.bf16 or self.args.gradient_checkpointing:
      transformer = dataclasses.replace(
          transformer, dtype="bfloat16" if self.args.bf16 else transformer.dtype,
          remat="full" if self.args.gradient_checkpointing else transformer.remat)
    seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
    return Experiment(LanguageModel(transformer, form=None), Collated(
        collated.NAME, {"targets": length}, batch_size, feature_converter="lm", seed=seed, mlm=self.mlm,
        train_examples=train, eval_examples=evaluation, collator=self.data_collator,
        own_vocabulary=self.processing_class.vocabulary))

  def _config(self, experiment: Experiment, examples: int, init_from: str | None) -> TrainConfig:
    args, batch_size = self.args, self._batch_size
    per_epoch, total_steps = math.ceil(examples / batch_size), args.total_steps(examples, batch_size)
    evaluated = args.period("eval", args.eval_steps or args.logging_steps, per_epoch)
    return TrainConfig(
        experiment, args.optimizer(total_steps), total_steps, self._partitioner, args.checkpoints(per_epoch),
        seed=args.seed, microbatches=args.gradient_accumulation_steps, clip_norm=args.max_grad_norm or None,
        log_period=args.period("logging", args.logging_steps, per_epoch) or total_steps, eval_period=evaluated,
        trackers=args.trackers, init_from=init_from)

  # Training.

  def train(self, resume_from_checkpoint: bool | str | os.PathLike | None = None) -> TrainOutput:
    """Trains until all steps are done; the model then has the trained parameters.

    Args:
      resume_from_checkpoint: True goes on with the run in output_dir; a path goes back to one of its checkpoints,
        OUTPUT_DIR/checkpoints/STEP. Else the directory must be free, unless overwrite_output_dir sets it aside.

    Raises:
      KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the run is saved; the model has what was reached.
    """
    if self._train is None:
      raise UserError("there is no train_dataset: give the Trainer one")
    directory, started = os.path.expanduser(os.fspath(self.args.output_dir)), time.monotonic()
    if self.mlm:
      say_once("gpt4x: mlm=True trains the model to fill masks from both sides, model(..., bidirectional=True); to"
               " continue text it is trained with mlm=False")
    experiment = self._experiment(self._train, self._eval, self._batch_size)
    experiment.check_vocabulary()
    newest, from_step = Checkpoints(directory).latest_step(), None
    if resume_from_checkpoint:
      from_step = _step_of(resume_from_checkpoint, directory, newest)
    elif newest is not None:
      self._set_aside(directory, newest)
    init_from = self._initial(directory, goes_on=bool(resume_from_checkpoint))
    config = self._config(experiment, len(self._train), init_from)
    first = from_step if from_step is not None else newest if resume_from_checkpoint else 0
    status = loop.train(directory, config, from_step=from_step)
    self._take(directory, config, experiment)
    if status:
      raise KeyboardInterrupt if status == INTERRUPTED else SystemExit(status)
    return self._output(time.monotonic() - started, self.state.global_step - (first or 0))

  def _set_aside(self, directory: str, newest: int) -> None:
    if not self.args.overwrite_output_dir:
      raise UserError(f"output_dir = {directory!r} has a run or a model already, at step {newest}: go on with a run by"
                      " train(resume_from_checkpoint=True), set it aside by overwrite_output_dir=True, or name another")
    if (place := self.model.checkpoint) is not None and _inside(place[0], directory):
      self.model.params = self.model.params  # They are about to lie elsewhere.
    set_aside(storage.path(directory), "aside")

  def _initial(self, directory: str, goes_on: bool) -> str | None:
    """The directory of the weights to start from: the one that they were read from, or one in the run's own."""
    own = str(storage.path(directory) / INITIAL)
    if goes_on and Checkpoints(own).latest_step() is not None:
      return own
    place = self.model.checkpoint
    if place is not None and Checkpoints(place[0]).latest_step() == place[1] and not _inside(place[0], directory):
      return place[0]
    if goes_on:
      return None  # A run that goes on reads none.
    self.model.save_pretrained(own)
    return own

  def _take(self, directory: str, config: TrainConfig, experiment: Experiment) -> None:
    """Takes over what the run has reached."""
    if Checkpoints(directory).latest_step() is None:  # It was stopped before its first step.
      return
    step, params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1))
    self.model.params = params
    self.model.came_from(directory, step)
    examples = len(self._train) if self._train is not None else 1
    epochs = lambda at: at * self._batch_size / examples
    self.state = TrainerState(step, config.total_steps, epochs(step),
                              [_logged(line, epochs(line["step"])) for line in read_metrics(directory)])

  def _output(self, seconds: float, steps: int) -> TrainOutput:
    losses = [line["loss"] for line in self.state.log_history if line.get("loss") is not None]
    loss = float(np.mean(losses)) if losses else math.nan
    return TrainOutput(self.state.global_step, loss, {
        "train_runtime": seconds, "train_samples_per_second": steps * self._batch_size / seconds,
        "train_steps_per_second": steps / seconds, "train_loss": loss, "epoch": self.state.epoch})

  # Evaluation.

  def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
    """The loss of examples, `eval_loss` in nats per label that counts, with what follows from it."""
    started = time.monotonic()
    examples = self._eval if eval_dataset is None else Examples(eval_dataset, "eval_dataset")
    if examples is None:
      raise UserError("there is no eval_dataset: give one to evaluate(), or to the Trainer")
    evaluator = self._own_evaluator if eval_dataset is None else self._evaluator(examples)
    shapes = self._partitioner.place(*self.model.language_model.declared)
    params = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), self.model.params, shapes)
    found = evaluator(params)
    if self.compute_metrics is not None:
      logits, labels = self._predict(examples)
      found |= dict(self.compute_metrics(EvalPrediction(logits, labels)))
    found |= {"runtime": time.monotonic() - started}
    named = {name if name.startswith(f"{metric_key_prefix}_") else f"{metric_key_prefix}_{name}": value
             for name, value in found.items()} | {"epoch": self.state.epoch}
    self.state.log_history.append({**named, "step": self.state.global_step})
    return named

  @functools.cached_property
  def _own_evaluator(self) -> Evaluator:
    assert self._eval is not None
    return self._evaluator(self._eval)

  def _evaluator(self, examples: Examples) -> Evaluator:
    return Evaluator(self._experiment(None, examples, self._eval_batch_size), self._partitioner, "validation")

  @property
  def _eval_batch_size(self) -> int:
    return self.args.per_device_eval_batch_size * self._partitioner.num_batch_shards

  def predict(self, test_dataset: Any, metric_key_prefix: str = "test") -> PredictionOutput:
    """The logits and labels of all examples, with the metrics of `evaluate`; all logits are held at once."""
    logits, labels = self._predict(Examples(test_dataset, "test_dataset"))
    return PredictionOutput(logits, labels, self.evaluate(test_dataset, metric_key_prefix))

  def _predict(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    size, length = self._eval_batch_size, _width(self.data_collator, examples)
    seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number, start in enumerate(range(0, len(examples), size)):
      chosen = [examples[i] for i in range(start, min(start + size, len(examples)))]
      batch = collated.seeded(self.data_collator, seed, 1, number)(chosen)  # As the evaluation draws.
      ids, real, labels = layout.arrays(batch["input_ids"], batch.get("attention_mask"), batch.get("labels"))
      labels = np.where(real, ids, layout.IGNORED) if labels is None else labels
      pad = lambda value, filler, width=ids.shape[1]: np.pad(value, ((0, 0), (0, length - width)),
                                                             constant_values=filler)
      output = self.model(pad(ids, 0), pad(real.astype(np.int32), 0), use_cache=False, bidirectional=self.mlm)
      found.append((np.asarray(output.logits), pad(labels, layout.IGNORED)))
    logits, labels = zip(*found)
    return np.concatenate(logits), np.concatenate(labels)

  # Saving.

  def save_model(self, output_dir: str | os.PathLike | None = None) -> None:
    """Writes the model as `save_pretrained` does; output_dir has it already when it was trained there."""
    directory = os.path.expanduser(os.fspath(output_dir or self.args.output_dir))
    place = self.model.checkpoint
    if place is not None and pathlib.Path(place[0]).resolve() == pathlib.Path(directory).resolve():
      return
    self.model.save_pretrained(directory)

  def save_state(self) -> None:
    """Does nothing: every checkpoint of the run has its whole state."""


def _width(collator: Any, examples: Examples) -> int:
  """The length of the rows that the longest example needs."""
  return np.shape(collated.seeded(collator, 0)([examples.longest])["input_ids"])[1]


def _logged(line: Mapping[str, Any], epoch: float) -> dict[str, Any]:
  """A line of metrics.jsonl as log_history has it."""
  values = {name: value for name, value in line.items() if name not in ("step", "split")}
  if line["split"] == "train":
    values["grad_norm"] = values.pop("gradient_norm", None)
  else:
    values = {f"eval_{name}": value for name, value in values.items()}
  return {**values, "epoch": epoch, "step": line["step"]}


def _step_of(checkpoint: Any, directory: str, newest: int | None) -> int | None:
  """The step of a checkpoint to go back to; None: the newest is meant."""
  if newest is None:
    raise UserError(f"resume_from_checkpoint = {checkpoint!r}, but output_dir = {directory!r} has no checkpoint: leave"
                    " it out to start anew, or name the directory of the run as output_dir")
  if checkpoint is True:
    return None
  path = pathlib.Path(os.path.expanduser(os.fspath(checkpoint)))
  if path.resolve() == pathlib.Path(directory).resolve():
    return None
  named = re.fullmatch(r"(?:checkpoint-)?(\d+)", path.name)
  if named is None or not _inside(str(path), directory):
    raise UserError(f"resume_from_checkpoint = {str(path)!r} is no checkpoint of output_dir = {directory!r}: give True,"
                    f" or {directory}/checkpoints/STEP")
  return int(named[1])


def _inside(path: str, directory: str) -> bool:
  """Whether a path is a directory or lies in it."""
  return pathlib.Path(path).resolve().is_relative_to(pathlib.Path(directory).resolve())
