"""`gpt4x train --loop=t5x`: t5x's loop with the configuration of our own."""

import contextlib
import dataclasses
import functools
import os
import sys
from typing import Any

from t5x import decoding, utils
from t5x import train as t5x_train
from t5x import trainer as t5x_trainer

from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.data import vocabularies
from gpt4x.data.row_mixture import RowMixture
from gpt4x.errors import UserError
from gpt4x.evaluation.likelihood import perplexity
from gpt4x.interop.t5x import crossing, data
from gpt4x.interop.t5x.model import TransformerXLModel
from gpt4x.interop.t5x.optimizer import OptaxOptimizer
from gpt4x.interop.t5x.partitioner import MeshPartitioner
from gpt4x.interop.t5x.trainer import RecurrentTrainer
from gpt4x.launch import lock
from gpt4x.training import loop, plots
from gpt4x.training.config import TrainConfig
from gpt4x.training.metrics import MetricsWriter, Progress
from gpt4x.training.preemption import Preemption
from gpt4x.training.telemetry import Rates
from gpt4x.training.trackers.tensorboard import TensorBoard


def train(model_dir: str, config: TrainConfig, profile_steps: tuple[int, int] | None = None) -> int:
  """Trains an experiment with t5x; arguments and result are those of `gpt4x.training.loop.train`.

  The model directory gets t5x's checkpoints, `checkpoint_<step>`, beside our own. A run starts from the newest of
  either kind, and its last step is saved as both.
  """
  _ = config.gin_text  # What gin cannot say is told before anything else.
  with lock.held(model_dir), contextlib.closing(Preemption()) as preemption:
    return _train(model_dir, config, profile_steps, preemption)


def _train(model_dir: str, config: TrainConfig, profile_steps: tuple[int, int] | None,
           preemption: Preemption) -> int:
  experiment, partitioner, checkpoints = config.experiment, config.partitioner, config.checkpoints
  dataset, total_steps, eval_period = experiment.dataset, config.total_steps, config.eval_period
  model_dir = os.path.abspath(os.path.expanduser(model_dir))  # Orbax under t5x takes only absolute paths.
  partitioner.check_batch(dataset.batch_size, config.microbatches)
  saved = Checkpoints(model_dir).latest_step(), crossing.newest_t5x_step(model_dir)
  experiment = experiment.to_train(model_dir, saved != (None, None), config.init_from)
  # t5x finds the data by its task's name: what the task has there must be the run's.
  by_name = dataclasses.replace(experiment, vocabulary=None).data.vocabulary
  if not vocabularies.alike(by_name, experiment.data.vocabulary):
    raise UserError(f"{dataset.mixture_or_task_name} has the vocabulary {vocabularies.describe(by_name)}, but"
                    f" {model_dir} was trained with {vocabularies.describe(experiment.data.vocabulary)}: put that one"
                    " in its place, or use --loop=gpt4x")
  if isinstance(dataset, RowMixture):
    raise UserError(f"RowMixture.parts has {len(dataset.parts)} data sets, and --loop=t5x trains on one: use"
                    " --loop=gpt4x, or DATASET = @DatasetConfig()")
  if experiment.model.frozen_models:
    raise UserError("LanguageModel.form has adapters, whose base --loop=t5x has no place for: use --loop=gpt4x")
  unknown = {"--profile_steps": profile_steps, "CheckpointConfig.keep_period": checkpoints.keep_period,
             "train.whole_final_eval": config.whole_final_eval, "train.trained": config.trained,
             "train.after_update": config.after_update,
             "train.on_nonfinite": config.on_nonfinite != "stop"}
  for name in (name for name, value in unknown.items() if value):
    raise UserError(f"{name} is set, which --loop=t5x has no counterpart of: unset it, or use --loop=gpt4x")
  periods = [min(period, total_steps) for period in (eval_period, checkpoints.period) if period]
  if max(periods) % min(periods):
    raise UserError(f"EVAL_PERIOD = {eval_period} and CHECKPOINT_PERIOD = {checkpoints.period}: t5x needs one of them"
                    " to be a multiple of the other; change either, or use --loop=gpt4x")

  # Our configuration in t5x's terms. Its `data` axis is our `data` and `fsdp`, its `model` axis our `tensor`.
  tensor = partitioner.mesh.shape["tensor"]
  t5x_partitioner = MeshPartitioner(num_partitions=tensor, num_devices=partitioner.mesh.size,
                                    parameter_partitioning_dims=2 if partitioner.mesh.shape["fsdp"] > 1 else 1)
  model = TransformerXLModel(
      experiment, OptaxOptimizer(config.optimizer, experiment.language_model, config.clip_norm),
      split_memory=experiment.memory_length % tensor == 0,
      decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0))
  data_config = lambda split, pack=dataset.pack: utils.DatasetConfig(
      dataset.mixture_or_task_name, dict(dataset.task_feature_lengths), split, dataset.batch_size, shuffle=False,
      seed=dataset.seed, pack=pack)
  save = utils.SaveCheckpointConfig(
      dtype=None,  # With any other, restoring turns the step and the optimizer's counts into floats.
      period=min(checkpoints.period, total_steps), keep=checkpoints.keep, save_dataset=True)
  converter: dict[str, Any] = {"feature_converter": dataset.feature_converter}

  # Where the run stands.
  run = crossing.Crossing(model_dir, config)
  start = crossing.newest_t5x_step(model_dir)
  if ahead := run.state_ahead_of_t5x():
    start, train_state, data_state = ahead
    batches = data.get_dataset(data_config("train"), 0, 1, **converter)
    batches.set_state(data_state)
    _save(train_state, batches, model, t5x_partitioner, save, model_dir)
  loop.write_configuration(model_dir, experiment, config.gin_text)
  writer = MetricsWriter(model_dir)
  trackers = [one for one in config.trackers if type(one) is not TensorBoard]  # t5x writes its own events.
  writer.start(trackers, -1 if start is None else start, config.gin_text)
  rates, progress = Rates(experiment, partitioner), Progress(total_steps, start or 0)
  shape = " x ".join(f"{name}={size}" for name, size in t5x_partitioner.mesh.shape.items())
  print(f"{experiment.model.config.num_params():,} parameters; t5x, mesh {shape}; step {start or 0} to {total_steps};"
        f" peak {rates.peak}", file=sys.stderr)

  def report(step: int, split: str, metrics: dict[str, float]):
    if split == "train":
      metrics = {name: value for name, value in metrics.items() if name not in ("bits_per_byte", "tokens")}
      metrics["mfu"] = rates.mfu(metrics["tokens_per_second"])
      progress.update(step, metrics["loss"], metrics["tokens_per_second"])
    else:
      metrics = {name: value for name, value in metrics.items() if not name.endswith("_per_second")}
      metrics["perplexity"] = perplexity(metrics["loss"])
      progress.print(f"step {step}: {split} " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    writer.write(step, split, metrics)

  infers = eval_period and dataset.feature_converter == "prefix_lm" and experiment.data.has_metrics
  status = loop.DONE
  with contextlib.closing(writer), contextlib.closing(progress):
    try:
      t5x_train.train(
          model=model, model_dir=model_dir, partitioner=t5x_partitioner, random_seed=config.seed,
          train_dataset_cfg=data_config("train"),
          train_eval_dataset_cfg=data_config(config.eval_split) if eval_period else None,
          infer_eval_dataset_cfg=data_config(config.eval_split, pack=False) if infers else None,
          checkpoint_cfg=utils.CheckpointConfig(save=save),
          trainer_cls=functools.partial(
              RecurrentTrainer, num_microbatches=config.microbatches, eval_split=config.eval_split, report=report,
              preempted=lambda: preemption.requested),
          total_steps=max(total_steps, start or 0),  # t5x refuses a run that is past its end.
          eval_period=min(eval_period, total_steps) if eval_period else 0,
          eval_steps=config.eval_batches, stats_period=config.log_period,
          summarize_config_fn=lambda model_dir, writer, step: None,
          get_dataset_fn=functools.partial(data.get_dataset, **converter),
          train_eval_get_dataset_fn=functools.partial(data.get_eval_datasets, **converter),
          run_eval_before_training=bool(eval_period) and start is None)
    except t5x_trainer.PreemptionError:
      status = preemption.status
  run.bring_over()
  plots.plot_losses(model_dir)
  if status != loop.DONE:
    step = crossing.newest_t5x_step(model_dir)
    print(f"stopped by {preemption.by}, saved at step {step} of {total_steps}: the same command continues",
          file=sys.stderr)
  return status


def _save(train_state, batches, model, partitioner, save, model_dir):
  """Writes a checkpoint of t5x's: a state dict of its kind, and the position of the batches."""
  spec = batches.element_spec
  initializer = utils.TrainStateInitializer(
      model.optimizer_def, model.get_initial_variables, {name: array.shape for name, array in spec.items()},
      partitioner, {name: array.dtype for name, array in spec.items()})
  shapes = initializer.global_train_state_shape
  manager = utils.create_orbax_checkpoint_manager(
      save_cfg=save, train_state=shapes, partitioner=partitioner, ds_iter=batches, model_dir=model_dir)
  manager.save(shapes.restore_state(train_state))
  manager.wait_until_finished()
  manager.close()
