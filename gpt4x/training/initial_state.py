"""The state before the first step, and where on the mesh a state lies."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt4x.models.memory import map_memories
from gpt4x.partitioning import Partitioner
from gpt4x.training.state import run_keys, select, TrainState
from gpt4x.training.step import TrainStep


def state_shapes(step: TrainStep, batch_size: int, memory_length: int, partitioner: Partitioner,
                 frozen: dict[str, Any] | None = None) -> TrainState:
  """The state as ShapeDtypeStructs with their shardings; nothing is computed."""
  placed = partitioner.place(*step.model.declared)
  trained, _ = select(placed, step.trained)
  replicated = partitioner.replicated
  attach: Any = lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)

  def like_param(leaf, param):
    if masked(leaf):
      return leaf
    # A factored optimizer's statistics have another shape than their parameter.
    return attach(leaf, param.sharding if leaf.shape == param.shape else replicated)

  memory = jax.eval_shape(lambda: step.objective.initial_memory(step.model, batch_size, memory_length))

  def place_memory(one):
    # The sequence is split between layers, and so is its past where it divides.
    positions = "residual_length" if one.length % partitioner.mesh.shape["tensor"] == 0 else "length"
    return jax.tree.map(lambda leaf, axes: attach(leaf, partitioner.sharding(*axes)), one, one.logical_axes(positions))

  return TrainState(
      step=attach(jax.ShapeDtypeStruct((), jnp.int32), replicated),
      params=placed,
      opt_state=optax.tree.map_params(
          step.transformation, like_param, jax.eval_shape(step.transformation.init, trained), trained,
          transform_non_params=lambda leaf: attach(leaf, replicated), is_leaf=masked),
      memory=map_memories(place_memory, memory),
      frozen=frozen or {})


def init_state(step: TrainStep, shapes: TrainState, partitioner: Partitioner) -> TrainState:
  """A fresh state, made in place on the mesh; the parameters do not depend on the mesh."""
  def init():
    params = step.model.init(run_keys(step.seed)[0])
    opt_state = step.transformation.init(select(params, step.trained)[0])
    memory = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.memory)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, memory)

  with partitioner.activate():
    shardings = jax.tree.map(lambda shape: shape.sharding, shapes.replace(frozen={}))
    return jax.jit(init, out_shardings=shardings)().replace(frozen=shapes.frozen)
