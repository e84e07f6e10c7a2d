"""No state is kept that holds what is not finite: how a step finds out, and what the loop makes of it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.errors import UserError
from gpt4x.training.state import TrainState


def finite(state: TrainState) -> jax.Array:
  """Whether the next step can start from a state: [] bool. Optimizers may hold infinities of their own, but no NaN."""
  holds = lambda test, tree: [jnp.all(test(leaf)) for leaf in jax.tree.leaves(tree)
                              if jnp.issubdtype(leaf.dtype, jnp.inexact)]
  not_nan = lambda leaf: ~jnp.isnan(leaf)
  return functools.reduce(jnp.logical_and, [
      *holds(jnp.isfinite, (state.params, state.memory)), *holds(not_nan, state.opt_state)], jnp.bool_(True))


def applied_if(ok: jax.Array, after: TrainState, before: TrainState) -> TrainState:
  """`after` if `ok`; else the same step without its update, and with a memory that is empty unless it is finite."""
  choose = lambda ok, tree, other: jax.tree.map(lambda new, old: jnp.where(ok, new, old), tree, other)
  remembers = finite(TrainState(after.step, params=(), opt_state=(), memory=after.memory))
  empty = jax.tree.map(jnp.zeros_like, after.memory)
  return after.replace(params=choose(ok, after.params, before.params),
                       opt_state=choose(ok, after.opt_state, before.opt_state),
                       memory=choose(ok | remembers, after.memory, empty))


class Watch:
  """Ends a run at a step that is not finite, or where such steps are skipped, after too many in a row."""

  def __init__(self, model_dir: str, directory: Checkpoints, max_skipped: int):
    self._model_dir, self._directory, self._max_skipped = model_dir, directory, max_skipped
    self._in_a_row = 0

  def check(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
    """A step's metrics without `finite`; raises UserError where the run cannot go on from the step."""
    ok = metrics.pop("finite")
    if "skipped" in metrics:
      self._in_a_row = self._in_a_row + 1 if metrics["skipped"] else 0
      if self._in_a_row < self._max_skipped:
        return metrics
    elif ok:
      return metrics
    loss, norm = metrics["loss"], metrics["gradient_norm"]
    if math.isfinite(loss + norm):
      what = f"what step {step} made is not finite, though its loss {loss} and gradient norm {norm} are"
    else:
      what = f"loss {loss} and gradient norm {norm} at step {step} are not both finite"
    if self._in_a_row:
      what += f", and {self._in_a_row} updates in a row were skipped (train.max_skipped)"
    raise UserError(f"{what}: lower the learning rate or train.clip_norm, and {self._continuing()}")

  def _continuing(self) -> str:
    self._directory.wait()
    steps = self._directory.steps()
    return f"go on from {_go_back(self._model_dir, steps[-1])}" if steps else "start again"


def check_restored(model_dir: str, directory: Checkpoints, shapes: TrainState, step: int, state: TrainState) -> None:
  """Raises UserError, with the step to go back to, if a checkpoint of an earlier version holds what is not finite."""
  test = jax.jit(finite)
  if test(state):
    return
  jax.tree.map(lambda leaf: leaf.delete(), state.replace(frozen={}))  # There may be no room for a second one.

  def good(older: int) -> bool:
    try:
      return bool(test(_restored(directory, shapes, older)))
    except UserError:  # It is damaged, or of another shape.
      return False

  older = next((older for older in reversed(directory.steps()) if older < step and good(older)), None)
  remedy = "start in a new model directory" if older is None else f"go back with {_go_back(model_dir, older)}"
  raise UserError(f"checkpoint {step} in {model_dir} holds numbers that are not finite: {remedy}")


def _restored(directory: Checkpoints, shapes: TrainState, step: int) -> Any:
  restored = directory.restore(shapes, step)
  assert restored is not None
  return restored[1]


def _go_back(model_dir: str, step: int) -> str:
  return f"step {step}: gpt4x train --model_dir={model_dir} --step={step}"
