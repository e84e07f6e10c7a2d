"""An optax optimizer of any kind as a t5x one."""

from typing import Any

from flax import serialization, traverse_util
import jax
import optax
from t5x import optimizers

from gpt4x.training.optimizers import complete, Declarations, Optimizer


class OptaxOptimizer(optimizers.OptaxWrapper):
  """t5x's wrapper, which knows the layout of the states of some optimizers only, extended to those of all.

  t5x's `learning_rate_fn` has no effect on it: the schedule belongs to the optimizer.

  Args:
    optimizer: see gpt4x/training/optimizers.py.
    clip_norm: global norm that gradients are scaled down to, as in our own loop; None: they are not.
  """

  def __init__(self, optimizer: Optimizer, clip_norm: float | None = 1.0):
    super().__init__(optax.identity())  # Until `declare`.
    self._incomplete, self._clip_norm = optimizer, clip_norm

  def declare(self, declarations: Declarations) -> None:
    """Tells the optimizer of the parameters, ahead of its use."""
    self.optax_optimizer = complete(self._incomplete, declarations, self._clip_norm)

  def derive_logical_axes(self, optimizer: optimizers.Optimizer, param_logical_axes: Any) -> optimizers.Optimizer:
    """Statistics of a parameter's shape lie as it does; whatever else there is, everywhere."""
    masked = lambda leaf: isinstance(leaf, optax.MaskedNode)
    like_param = lambda leaf, param, axes: leaf if masked(leaf) else axes if leaf.shape == param.shape else None
    axes = optax.tree.map_params(
        self.optax_optimizer, like_param, optimizer.state.param_states, optimizer.target, param_logical_axes,
        transform_non_params=lambda _: None, is_leaf=masked)
    state = jax.tree.map(lambda _: None, optimizer.state_dict())
    flat = traverse_util.flatten_dict(serialization.to_state_dict(axes))
    state["target"] = param_logical_axes
    state["state"]["param_states"] = traverse_util.unflatten_dict(flat)
    return optimizer.restore_state(state)
