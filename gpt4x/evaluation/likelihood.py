"""Evaluation: each example of a split once, with the memory carried along every row."""

import functools
import math
from typing import Any, Sequence

import gin
import jax
import numpy as np

from gpt4x import configuration, distributed
from gpt4x.data import pipeline, vocabularies
from gpt4x.errors import UserError
from gpt4x.models.transformer_xl import Memory
from gpt4x.partitioning import Partitioner
from gpt4x.training.experiment import Experiment
from gpt4x.training.infer_evaluation import InferEvaluator
from gpt4x.training.step import eval_step


class Evaluator:
  """Loss, perplexity, bits per byte and accuracy of parameters on a split of an experiment's data."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner, split: str, max_batches: int | None = None):
    experiment.check_vocabulary()
    partitioner.check_batch(experiment.dataset.batch_size)
    self._experiment, self._partitioner = experiment, partitioner
    self._split, self._max_batches = split, max_batches
    model = experiment.model
    token_bytes = vocabularies.token_bytes(pipeline.vocabulary(experiment.dataset)).astype(np.float32)
    self._token_bytes = jax.device_put(
        np.pad(token_bytes, (0, model.config.vocab_size - len(token_bytes))), partitioner.replicated)
    self._step = jax.jit(functools.partial(eval_step, model), donate_argnums=3)

    def empty_memory(params):
      # Keys and values rather than layer inputs: the same numbers, and no past is projected again.
      memory = model.initial_memory(experiment.dataset.batch_size, experiment.eval_memory_length, projected=True)
      if experiment.dataset.carries_memory:
        memory = model.project_positions(params, memory, experiment.dataset.segment_length)
      return memory

    self._empty_memory = jax.jit(empty_memory, out_shardings=Memory(
        partitioner.sharding("layers", None, "batch"), partitioner.sharding("batch")))

  def __call__(self, params: Any) -> dict[str, float]:
    """Means over all targets: `loss` in nats per token, `perplexity`, `accuracy`, `bits_per_byte`, and their number.

    Bits per byte are those of the text that the targets stand for: the end of a document costs bits and has no bytes.
    """
    dataset = self._experiment.dataset
    totals = dict.fromkeys(("loss", "correct", "weight", "bytes"), 0.0)

    def add(sums):
      for name, value in jax.device_get(sums).items():
        totals[name] += float(value)

    rows = self._partitioner.host_rows(dataset.batch_size)
    previous = None
    with self._partitioner.activate():
      memory = self._empty_memory(params)
      for i, batch in enumerate(pipeline.eval_iterator(dataset, self._split, rows)):
        if i == self._max_batches:
          break
        batch = {name: self._partitioner.global_array(rows, dataset.batch_size) for name, rows in batch.items()}
        sums, memory = self._step(params, self._token_bytes, batch, memory)
        if not dataset.carries_memory:
          memory = self._empty_memory(params)
        if previous is not None:  # One batch late: the next is under way while this waits.
          add(previous)
        previous = sums
    if previous is not None:
      add(previous)
    if not totals["weight"]:
      raise UserError(
          f"split {self._split} of {dataset.mixture_or_task_name} has no target tokens: choose another split")
    loss = totals["loss"] / totals["weight"]
    metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": totals["correct"] / totals["weight"],
               "tokens": totals["weight"]}
    if totals["bytes"]:
      metrics["bits_per_byte"] = totals["loss"] / math.log(2) / totals["bytes"]
    return metrics


@gin.configurable(denylist=["model_dir", "step", "split"])
def evaluate(model_dir: str, experiment: Experiment = gin.REQUIRED, partitioner: Partitioner | None = None,
             step: int | None = None, split: str = "validation", max_batches: int | None = None) -> dict[str, float]:
  """Evaluates a checkpoint; returns the metrics of `Evaluator`, those of seqio's infer-evaluation, and `step`.

  The mesh of the run does not matter: unless told otherwise, all devices here split the batch as far as it divides.
  """
  if partitioner is None and jax.process_count() > 1:
    partitioner = Partitioner()  # Every process takes part.
  if partitioner is None:
    devices = math.gcd(jax.device_count(), experiment.dataset.batch_size)
    partitioner = Partitioner(data=devices, num_devices=devices)
  evaluator = Evaluator(experiment, partitioner, split, max_batches)
  step, params = experiment.restore_params(model_dir, partitioner, step)
  metrics = evaluator(params)
  return {"step": step} | metrics | InferEvaluator(experiment, split)(params)


def main(model_dir: str, step: int | None, split: str, gin_files: Sequence[str], bindings: Sequence[str]) -> None:
  """`gpt4x eval`: prints the metrics, a name and a value a line."""
  configuration.load_run(model_dir, gin_files, bindings)
  distributed.check(configuration.config_text())
  metrics = evaluate(model_dir, step=step, split=split)
  for name, value in metrics.items():
    print(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}")
