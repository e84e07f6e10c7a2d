"""Any optax optimizer as a t5x one."""

from typing import Any

from flax import serialization, traverse_util
import jax
import optax
from t5x import optimizers

from gpt4x.models.language_model import LanguageModel
from gpt4x.training.optimizers import complete, Optimizer


class OptaxOptimizer(optimizers.OptaxWrapper):
  """t5x's wrapper, extended from the optimizers whose state it knows to all.

  Args:
    optimizer: see gpt4x/training/optimizers.py. Its schedule is inside; t5x's `learning_rate_fn` has no effect.
    model: what is trained; its declarations tell the optimizer which parameters decay.
    clip_norm: global norm that gradients are scaled down to, as in our own loop; None: they are not.
  """

  def __init__(self, optimizer: Optimizer, model: LanguageModel, clip_norm: float | None = 1.0):
    super().__init__(complete(optimizer, model.declared[1], clip_norm))

  def derive_logical_axes(self, optimizer: optimizers.Optimizer, param_logical_axes: Any) -> optimizers.Optimizer:
    """Gives statistics of a parameter's shape the parameter's axes; everything else is on all devices."""
    masked = lambda leaf: isinstance(leaf, optax.MaskedNode)
    like_param = lambda leaf, param, axes: leaf if masked(leaf) else axes if leaf.shape == param.shape else None
    axes = optax.tree.map_params(
        self.optax_optimizer, like_param, optimizer.state.param_states, optimizer.target, param_logical_axes,
        transform_non_params=lambda _: None, is_leaf=masked)
    state = jax.tree.map(lambda _: None, optimizer.state_dict())
    state["target"] = param_logical_axes
    # Flattening drops the empty nodes, which t5x has no place for.
    state["state"]["param_states"] = traverse_util.unflatten_dict(
        traverse_util.flatten_dict(serialization.to_state_dict(axes)))
    return optimizer.restore_state(state)
