"""The train loop: restore or start, then step, evaluate, report and save until all steps are done."""

import contextlib
import json
import os
import sys

import jax

from gpt4x import run_directory, storage
from gpt4x.checkpoints import frozen_models
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.data import chat_template, vocabularies
from gpt4x.data.prefetch import prefetch
from gpt4x.evaluation.likelihood import Evaluator
from gpt4x.evaluation.samples import shower
from gpt4x.evaluation.task_metrics import TaskMetrics
from gpt4x.experiment import Experiment
from gpt4x.launch import agreement, lock
from gpt4x.objectives.groups import without_absent
from gpt4x.partitioning import Partitioner
from gpt4x.training import finiteness, hardware, plots
from gpt4x.training.config import TrainConfig
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.metrics import MetricsWriter, Progress
from gpt4x.training.preemption import Preemption, Stopped
from gpt4x.training.telemetry import Profiler, Rates
from gpt4x.training.trackers.tracker import check_installed

DONE = 0


def train(model_dir: str, config: TrainConfig, profile_steps: tuple[int, int] | None = None,
          from_step: int | None = None) -> int:
  """Trains an experiment in a model directory, from its newest checkpoint if there is one.

  The profiler traces the steps from profile_steps[0] to profile_steps[1]. With `from_step` the run goes back to that
  checkpoint, and newer ones are set aside. Returns the exit status: 0; or, where the run was stopped and saved, 75
  after SIGTERM and 130 after Ctrl-C. Raises UserError, before anything else, if gin text cannot say `config`.
  """
  gin_text, model_dir = config.gin_text, os.path.expanduser(model_dir)
  with lock.held(model_dir) as owner, contextlib.closing(Preemption()) as preemption:
    return _train(model_dir, config, gin_text, profile_steps, from_step, owner, preemption)


def _train(model_dir: str, config: TrainConfig, gin_text: str, profile_steps: tuple[int, int] | None,
           from_step: int | None, owner: lock.Lock, preemption: Preemption) -> int:
  partitioner, total_steps, dataset = config.partitioner, config.total_steps, config.experiment.dataset
  partitioner.check_batch(dataset.batch_size, config.microbatches)
  check_installed(config.trackers)
  goes_on = Checkpoints(model_dir).latest_step() is not None
  experiment = config.experiment.to_train(model_dir, goes_on, config.init_from)
  if config.eval_period:
    experiment.data.check_split(config.eval_split)  # Before anything is tokenized.
  show = shower(experiment, config.eval_split) if config.eval_period and config.eval_samples else None
  directory, models = Checkpoints(model_dir, config.checkpoints), experiment.held_models
  references = frozen_models.find(models, directory.frozen(from_step) if goes_on else {})

  # The state and the data, from the same step.
  stream = experiment.data.train(rows=partitioner.host_rows(dataset.batch_size))
  shapes = state_shapes(config.step, dataset.batch_size, experiment.memory_length, partitioner)
  restored = directory.restore(shapes, from_step)
  if restored:
    step, state, data_state = restored
    stream.set_state(data_state)
    directory.check_seed(step, config.seed)
    finiteness.check_restored(model_dir, directory, shapes, step, state)
    directory.go_back(step)  # Sets aside nothing, unless `from_step` is given.
  else:
    step, data_state = 0, stream.get_state()
    # A restored run needs no such check: `set_state` compares the data with what was saved.
    agreement.check_alike("training data", json.dumps(data_state))
    state = init_state(config.step, shapes, partitioner)
    if config.init_from:
      state = state.replace(params=experiment.params_from(config.init_from, partitioner, state.params))
  shapes = shapes.replace(frozen=frozen_models.shapes(models, partitioner))
  state = state.replace(frozen=frozen_models.load(models, references, partitioner))

  # What reports.
  likelihood = Evaluator(experiment, partitioner, config.eval_split) if config.eval_period else None
  task_metrics = TaskMetrics(experiment, config.eval_split) if config.eval_period else None
  write_configuration(model_dir, experiment, gin_text, config.init_from)
  writer = MetricsWriter(model_dir)
  writer.start(config.trackers, step if restored else -1, gin_text, went_back=from_step is not None)
  rates, profiler = Rates(experiment, partitioner), Profiler(model_dir, profile_steps)
  print(*experiment.data.composition, _describe(experiment, partitioner, rates, step, total_steps), sep="\n",
        file=sys.stderr)
  collect = experiment.collector(partitioner)
  progress, batches, start = Progress(total_steps, step), prefetch(stream), step
  watch = finiteness.Watch(model_dir, directory, config.max_skipped)

  def evaluation_is_due() -> bool:
    period = config.eval_period or 0
    return period > 0 and (step % period == 0 or step == total_steps)

  def evaluate() -> bool:
    """Whether the evaluation came to its end: a request to stop does not wait for it."""
    assert likelihood and task_metrics
    max_batches = None if config.whole_final_eval and step == total_steps else config.eval_batches
    gallery = None
    try:
      params = experiment.model.whole(state.params, state.frozen)
      metrics = likelihood(params, state.frozen, between_batches=preemption.check, max_batches=max_batches)
      metrics |= task_metrics(params, preemption.check)
      if show:
        measures, gallery = show(params, config.eval_samples, preemption.check)
        metrics |= measures
    except Stopped:
      return False
    writer.write(step, config.eval_split, metrics)
    if gallery:
      writer.show(step, config.eval_split, gallery)
    found = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    progress.print(f"step {step}: {config.eval_split} {found}")
    return True

  def report(at: int, on_device: dict[str, jax.Array]):
    metrics = watch.check(at, {name: float(value) for name, value in jax.device_get(on_device).items()})
    owner.check()
    rates.count_step()
    if at % config.log_period == 0 or at == total_steps or metrics.get("skipped"):
      writer.write(at, "train", without_absent(metrics) | rates.since_last())
    progress.update(at, metrics["loss"], rates.tokens_per_second)

  compiled, unreported, evaluated = None, None, True
  with contextlib.ExitStack() as stack:
    for resource in (directory, writer, batches, progress, profiler):
      stack.callback(resource.close)
    with partitioner.activate():
      if evaluation_is_due() and not writer.has(step, config.eval_split):
        evaluated = evaluate()
      while step < total_steps and not preemption.reached():
        batch, data_state = rates.next(batches)
        if collect:
          batch = collect(experiment.model.whole(state.params, state.frozen), batch, config.seed, step)
        batch = {name: partitioner.global_array(rows, dataset.batch_size) for name, rows in batch.items()}
        if compiled is None:
          compiled = config.step.jit(shapes).lower(state, batch).compile()
          rates.restart()
          if preemption.reached():
            break
        profiler.before_step(step)
        state, metrics = compiled(state, batch)
        step += 1
        if unreported:  # The devices work on this step while the metrics of the one before are fetched.
          report(*unreported)
        unreported = step, metrics
        evaluating = evaluation_is_due()
        saving = step % config.checkpoints.period == 0 or step == total_steps
        if evaluating or saving:
          report(*unreported)  # Nothing is saved before it is known to be finite and its metrics are written.
          unreported = None
        if evaluating:
          evaluated = evaluate()
        if saving:
          writer.flush()
          directory.save(step, state, data_state, gin_text, config.seed, frozen=references)
        if evaluating:
          rates.restart()
      if unreported:
        report(*unreported)
      if start < step < total_steps:
        writer.flush()
        directory.save(step, state, data_state, gin_text, config.seed, frozen=references)
  if jax.process_index() == 0:
    plots.plot_losses(model_dir)
  if step == total_steps and evaluated:
    return DONE
  saved = f"saved at step {step} of {total_steps}" if step > start else "before it had done a step"
  same = "the same command" if from_step is None else "the same command without --step"
  print(f"stopped by {preemption.by}, {saved}: {same} continues", file=sys.stderr)
  return preemption.status


def write_configuration(model_dir: str, experiment: Experiment, gin_text: str, init_from: str | None = None) -> None:
  """Writes the vocabulary and the gin text, so that `eval` and `generate` need nothing but the directory.

  And what the run is trained on, for those who read of it later. Where the data has no conversations, the chat template
  of the model that the run starts from, or whose adapters it trains, stays that of the run.
  """
  if jax.process_index() == 0:
    vocabularies.save(experiment.data.vocabulary, model_dir)
    parents = [*(one.directory for one in experiment.model.frozen_models.values()), *([init_from] if init_from else [])]
    found = [getattr(experiment.data, "chat_template", None), *map(chat_template.of_run, [model_dir, *parents])]
    if template := next(filter(None, found), None):
      storage.write(storage.path(model_dir) / run_directory.CHAT_TEMPLATE, template.text.encode())
    storage.write(storage.path(model_dir) / run_directory.CONFIG, gin_text.encode())
    hardware.write_environment(model_dir)


def _describe(experiment: Experiment, partitioner: Partitioner, rates: Rates, step: int, total_steps: int) -> str:
  config, dataset = experiment.model.config, experiment.dataset
  mesh = " x ".join(f"{name}={size}" for name, size in partitioner.mesh.shape.items())
  return (f"{config.num_params():,} parameters, {rates.flops_per_token / 1e6:.4g} MFLOP per token trained,"
          f" {config.compute_dtype}; {dataset.batch_size} rows of {dataset.segment_length} tokens, memory"
          f" {experiment.memory_length}; mesh {mesh}; step {step} to {total_steps}; peak {rates.peak}")
