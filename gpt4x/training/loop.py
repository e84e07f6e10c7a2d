"""The train loop: restore or start, then step, evaluate, report and save until all steps are done."""

from collections.abc import Iterator
import contextlib
import inspect
import json
import math
import pathlib
import signal
import sys
import threading
import time
from typing import Any

import gin
import jax
from jax.experimental import multihost_utils
import optax

from gpt4x import configuration, distributed
from gpt4x.data import directories, pipeline, vocabularies
from gpt4x.errors import UserError
from gpt4x.partitioning import Partitioner
from gpt4x.training import hardware, plots
from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints
from gpt4x.training.evaluation import Evaluator
from gpt4x.training.experiment import Experiment
from gpt4x.training.infer_evaluation import InferEvaluator
from gpt4x.training.metrics import MetricsWriter, Progress
from gpt4x.training.optimizers import with_clipping
from gpt4x.training.state import init_state, state_shapes
from gpt4x.training.step import jit_train_step

DONE, PREEMPTED = 0, 75


@gin.configurable(denylist=["model_dir", "profile_steps"])
def train(
    model_dir: str,
    experiment: Experiment = gin.REQUIRED,
    optimizer: optax.GradientTransformation = gin.REQUIRED,
    total_steps: int = gin.REQUIRED,
    partitioner: Partitioner | None = None,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    seed: int = 0,
    microbatches: int = 1,
    clip_norm: float | None = 1.0,
    log_period: int = 10,
    eval_period: int | None = None,
    eval_batches: int | None = None,
    eval_split: str = "validation",
    init_from: str | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> int:
  """Trains an experiment in a model directory, from its newest checkpoint if there is one.

  Args:
    model_dir: where checkpoints, metrics.jsonl, TensorBoard events and loss.png go.
    experiment: the model and its data.
    optimizer: see optimizers.py; schedules are part of it.
    total_steps: optimizer steps of the whole run.
    partitioner: the mesh; None: every device splits the batch.
    checkpoints: when to save, what to keep. The last step is always saved.
    seed: of parameters and dropout. Step t uses nothing but (seed, t), so a resumed run repeats no draw.
    microbatches: groups of rows whose gradients are summed in turn.
    clip_norm: global norm that gradients are scaled down to.
    log_period: steps between reports, each of the last step's loss.
    eval_period: steps between evaluations, the first before any step; the last step is always evaluated. None: never.
    eval_batches: batches of an evaluation; None: the whole split.
    eval_split: the split to evaluate.
    init_from: the model directory of another run, whose newest parameters a new run starts from (fine-tuning).
    profile_steps: (start, stop) steps to write a profiler trace of, into DIR/profile.

  Returns:
    The exit status: 0, or 75 when SIGTERM stopped the run, which is then saved.
  """
  for name, value in (("microbatches", microbatches), ("log_period", log_period)):
    if value < 1:
      raise UserError(f"train.{name} = {value} must be at least 1")
  partitioner = partitioner or Partitioner()
  dataset, model = experiment.dataset, experiment.model
  partitioner.check_batch(dataset.batch_size, microbatches)
  experiment.check_vocabulary()
  directory = Checkpoints(model_dir, checkpoints)

  # The state, the data, and where both stand.
  stream = pipeline.train_iterator(dataset, rows=partitioner.host_rows(dataset.batch_size))
  optimizer = with_clipping(optimizer, clip_norm)
  shapes = state_shapes(model, optimizer, dataset.batch_size, experiment.memory_length, partitioner)
  restored = directory.restore(shapes)
  if restored:
    step, state, data_state = restored
    stream.set_state(data_state)
    directory.check_seed(step, seed)
  else:
    step, data_state = 0, stream.get_state()
    distributed.check_alike("training data", json.dumps(data_state))  # Restoring compares with what was saved.
    state = init_state(model, optimizer, shapes, seed, partitioner)
    if init_from:
      state = state.replace(params=experiment.restore_params(init_from, partitioner)[1])

  # Who reports.
  evaluators = []
  if eval_period:
    evaluators = [Evaluator(experiment, partitioner, eval_split, eval_batches), InferEvaluator(experiment, eval_split)]
  write_configuration(model_dir, dataset)
  writer = MetricsWriter(model_dir)
  writer.truncate(step if restored else -1)
  rates, profiler = Rates(experiment, partitioner), Profiler(model_dir, profile_steps)
  print(_describe(experiment, partitioner, step, total_steps) + f"; peak {rates.peak}", file=sys.stderr)
  progress, preemption, batches = Progress(total_steps, step), Preemption(), pipeline.prefetch(stream)

  def evaluate():
    metrics = {name: value for evaluator in evaluators for name, value in evaluator(state.params).items()}
    writer.write(step, eval_split, metrics)
    progress.print(f"step {step}: {eval_split} " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

  def report(at: int, metrics: dict[str, jax.Array]):
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(metrics["loss"] + metrics["gradient_norm"]):
      raise UserError(
          f"loss {metrics['loss']} and gradient norm {metrics['gradient_norm']} at step {at} are not both finite:"
          f" lower the learning rate or clip_norm; checkpoints: {directory.steps()}")
    rates.count_step()
    if at % log_period == 0 or at == total_steps:
      writer.write(at, "train", metrics | rates.since_last())
    progress.update(at, metrics["loss"], rates.tokens_per_second)

  step_fn = jit_train_step(model, optimizer, microbatches, seed, shapes)
  compiled, unreported = None, None
  with contextlib.ExitStack() as stack:
    for resource in (directory, writer, preemption, batches, progress, profiler):
      stack.callback(resource.close)
    with partitioner.activate():
      if evaluators and not restored:
        evaluate()
      while step < total_steps and not preemption.reached(step):
        batch, data_state = rates.next(batches)
        batch = {name: partitioner.global_array(rows, dataset.batch_size) for name, rows in batch.items()}
        if compiled is None:
          compiled = step_fn.lower(state, batch).compile()
          rates.restart()
        profiler.before_step(step)
        state, metrics = compiled(state, batch)
        step += 1
        if unreported:  # The step before: the devices work on this one while its metrics are fetched.
          report(*unreported)
        unreported = step, metrics
        evaluating = evaluators and (step % eval_period == 0 or step == total_steps)
        saving = step % checkpoints.period == 0 or step == total_steps
        if evaluating or saving:
          report(*unreported)  # Nothing is saved before it is known to be finite and its metrics are written.
          unreported = None
        if evaluating:
          evaluate()
        if saving:
          directory.save(step, state, data_state, configuration.config_text(), seed)
        if evaluating:
          rates.restart()
      if unreported:
        report(*unreported)
      if step < total_steps:
        directory.save(step, state, data_state, configuration.config_text(), seed)
  if jax.process_index() == 0:
    plots.plot_losses(model_dir)
  if step < total_steps:
    print(f"stopped by SIGTERM, saved at step {step} of {total_steps}: the same command continues", file=sys.stderr)
    return PREEMPTED
  return DONE


def settings(model_dir: str, profile_steps: tuple[int, int] | None = None) -> dict[str, Any]:
  """The arguments of `train` that gin has been told, with the defaults of the others."""
  bindings = gin.get_bindings(train)
  if "experiment" not in bindings:  # A model that was converted.
    raise UserError(f"{model_dir} says how to read its model, not how to train it: choose another --model_dir, with"
                    f" --gin_file={model_dir}/{configuration.RUN_FILE} and --gin.train.init_from=\"'{model_dir}'\"")
  arguments = inspect.signature(train).bind(model_dir, **bindings, profile_steps=profile_steps)
  arguments.apply_defaults()
  return arguments.arguments


def main(model_dir: str, profile_steps: tuple[int, int] | None = None) -> int:
  """`gpt4x train`."""
  return train(**settings(model_dir, profile_steps))


class Preemption:
  """Turns SIGTERM into a request to save and stop after the step under way.

  Of several processes one may be told, and all are to stop after the same step: JAX's preemption service, which took
  over SIGTERM when the processes connected, passes the notice on in the background and chooses the step.
  """

  def __init__(self):
    self.requested = False
    # Signals belong to the main thread; in any other, whoever owns it stops the run.
    self._owner = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    if self._owner:
      self._previous = signal.signal(signal.SIGTERM, self._request)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step` steps, to be asked at each; the same on all processes."""
    return self.requested or jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)

  def _request(self, *_):
    self.requested = True

  def close(self) -> None:
    if self._owner:
      signal.signal(signal.SIGTERM, self._previous)


class Rates:
  """Speed since the last report: evaluation, compilation and their like are kept out by `restart`."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner):
    config, dataset = experiment.model.config, experiment.dataset
    self._tokens = dataset.batch_size * dataset.segment_length
    self._flops = config.flops_per_token(dataset.segment_length, experiment.memory_length, training=True)
    self._peak, source = hardware.peak_flops(config.compute_dtype, partitioner.mesh.size)
    self.peak = f"{self._peak / 1e12:.4g} TFLOP/s ({source})"
    self.tokens_per_second = None
    self.restart()

  def restart(self) -> None:
    self._since, self._steps, self._waited = time.monotonic(), 0, 0.0

  def next(self, batches: Iterator[Any]) -> Any:
    """The next batch, of which the time that it is waited for counts as `input_wait`."""
    start = time.monotonic()
    batch = next(batches)
    self._waited += time.monotonic() - start
    return batch

  def count_step(self) -> None:
    self._steps += 1

  def since_last(self) -> dict[str, float]:
    """Steps and tokens per second, MFU (see hardware.py), and the share of the time spent on waiting for input."""
    seconds = time.monotonic() - self._since
    steps_per_second, input_wait = self._steps / seconds, self._waited / seconds
    self.tokens_per_second = steps_per_second * self._tokens
    self.restart()
    return {"steps_per_second": steps_per_second, "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu(self.tokens_per_second), "input_wait": input_wait}

  def mfu(self, tokens_per_second: float) -> float:
    return tokens_per_second * self._flops / self._peak


class Profiler:
  """Writes a trace of steps START to STOP into DIR/profile, for TensorBoard or Perfetto."""

  def __init__(self, model_dir: str, steps: tuple[int, int] | None):
    self._directory = str(pathlib.Path(model_dir) / "profile")
    self._start, self._stop = steps if steps and jax.process_index() == 0 else (None, None)
    self._running = False

  def before_step(self, step: int) -> None:
    if step == self._stop:
      self.close()
    if step == self._start:
      jax.profiler.start_trace(self._directory)
      self._running = True

  def close(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


def write_configuration(model_dir: str, dataset: pipeline.DatasetConfig) -> None:
  """Writes what `eval` and `generate` need to work from the directory alone: the gin text and the vocabulary."""
  if jax.process_index() == 0:
    directories.write(pathlib.Path(model_dir) / configuration.RUN_FILE, configuration.config_text().encode())
    vocabularies.save(pipeline.vocabulary(dataset), model_dir)


def _describe(experiment: Experiment, partitioner: Partitioner, step: int, total_steps: int) -> str:
  config, dataset = experiment.model.config, experiment.dataset
  flops = config.flops_per_token(dataset.segment_length, experiment.memory_length, training=True)
  mesh = " x ".join(f"{name}={size}" for name, size in partitioner.mesh.shape.items())
  return (f"{config.num_params():,} parameters, {flops / 1e6:.4g} MFLOP per token trained, {config.compute_dtype};"
          f" {dataset.batch_size} rows of {dataset.segment_length} tokens, memory {experiment.memory_length};"
          f" mesh {mesh}; step {step} to {total_steps}")
