"""t5x's trainer for a model with memory."""

from collections.abc import Callable, Iterator, Mapping
import functools
from typing import Any

from jax.sharding import PartitionSpec
from t5x import trainer

from gpt4x.models.memory import Memory
from gpt4x.training.gradients import microbatched


class RecurrentTrainer(trainer.Trainer):
  """t5x's trainer, with memory carried from batch to batch in evaluation, and split over microbatches by rows.

  Args:
    num_microbatches: groups of rows whose gradients are summed in turn.
    learning_rate_fn: not used, since the schedule is inside the optax optimizer.
    eval_split: the split that evaluations are reported as.
    report: called with (step, split, metrics) for each summary that t5x writes.
    preempted: once this is true, the next summary ends with t5x's PreemptionError, upon which t5x saves.
    **arguments: the others of `trainer.Trainer`.
  """

  def __init__(self, num_microbatches: int | None = None, learning_rate_fn: Any = None, eval_split: str = "validation",
               report: Callable[[int, str, dict[str, float]], None] = lambda step, split, metrics: None,
               preempted: Callable[[], bool] = lambda: False, **arguments: Any):
    del learning_rate_fn
    self._eval_split, self._report, self._preempted = eval_split, report, preempted
    super().__init__(learning_rate_fn=lambda step: 0.0, num_microbatches=num_microbatches, **arguments)

  def train(self, batch_iter: Iterator[Any], num_steps: int, start_step: int):
    summary, step = super().train(batch_iter, num_steps, start_step), start_step + num_steps
    summary.add_done_callback(lambda done: self._report(step, "train", _numbers(done.result())))
    if self._preempted():
      summary.result()
      raise trainer.PreemptionError("asked to stop")
    return summary

  def eval(self, batch_iters: Mapping[str, Iterator[Any]]) -> Mapping[str, Any]:
    """Evaluates every dataset from an empty memory on."""
    for name in batch_iters:
      self._compiled_eval_steps[name] = self._remembering_eval_step()
    summaries = super().eval(batch_iters)
    for summary in summaries.values():
      self._report(int(self.train_state.step), self._eval_split, _numbers(summary))
    return summaries

  def compile_eval(self, batches: Mapping[str, Any]) -> None:
    """Does nothing, since the first batch of an evaluation compiles its step."""

  @functools.cached_property
  def _partitioned_train_step(self):
    def train_step(train_state, batch):
      rng, spec = self._get_step_rng(train_state.step), self._partitioner.data_partition_spec
      if self._num_microbatches in (None, 1):
        state, metrics = trainer.train_with_lr(
            train_state, batch, 0.0, rng, self._model, num_microbatches=None,
            weight_metrics_computer=self._weight_metrics_computer, data_partition_spec=spec)
      else:
        memory = self._model.memory(batch, train_state.flax_mutables or None)
        gradients, sums, memory = microbatched(self._num_microbatches)(
            self._model.sums, self._model.coefficients, train_state.params, batch, memory, rng)
        others = {"flax_mutables": self._model.mutables(memory)} if train_state.flax_mutables else None
        state, metrics = trainer.apply_grads(train_state, gradients, self._model.metrics(sums, batch), 0.0,
                                             self._weight_metrics_computer, others)
      for name in ("learning_rate", "learning_rate/current"):  # t5x's own, which nothing uses.
        del metrics[name]
      return state, metrics

    return self._partitioner.partition(
        train_step, in_axis_resources=(self._train_state_axes, self._partitioner.data_partition_spec),
        out_axis_resources=(self._train_state_axes, None), donate_argnums=(0,))

  @functools.cached_property
  def _partitioned_eval_step(self):
    return self._partitioner.partition(
        self._model.eval_segment,
        in_axis_resources=(self._train_state_axes.params, self._partitioner.data_partition_spec, self._memory_spec),
        out_axis_resources=(None, self._memory_spec), donate_argnums=(2,))

  @property
  def _memory_spec(self) -> Memory:
    rows = self._partitioner.data_partition_spec
    specs: tuple[Any, Any] = PartitionSpec(None, None, *rows), rows
    return Memory(*specs)

  @functools.cached_property
  def _empty_memory(self):
    make = lambda: self._model.language_model.initial_memory(
        self._model.dataset.batch_size, self._model.eval_memory_length, projected=True)
    return self._partitioner.partition(make, in_axis_resources=(), out_axis_resources=self._memory_spec)

  def _remembering_eval_step(self):
    """An evaluation step as t5x calls it, which keeps the memory to itself."""
    memory = self._empty_memory()

    def eval_step(train_state, batch):
      nonlocal memory
      metrics, memory = self._partitioned_eval_step(train_state.params, batch, memory)
      if not self._model.eval_memory_length:
        memory = self._empty_memory()
      return metrics

    return eval_step


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
  """clu's scalars as numbers; t5x's own timing is left to TensorBoard."""
  return {name: float(value.value) for name, value in summary.items() if not name.startswith("timing/")}
