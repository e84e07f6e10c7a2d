"""TrainState: all that a step changes, and where on the mesh it lies."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gpt4x.models.language_model import LanguageModel
from gpt4x.models.transformer_xl import Memory
from gpt4x.partitioning import Partitioner


@flax.struct.dataclass
class TrainState:
  step: jax.Array  # [] int32, steps done.
  params: Any
  opt_state: Any
  memory: Memory


def state_shapes(model: LanguageModel, optimizer: optax.GradientTransformation, batch_size: int, memory_length: int,
                 partitioner: Partitioner) -> TrainState:
  """The state as ShapeDtypeStructs with their shardings; nothing is computed."""
  shapes = jax.eval_shape(lambda: _init(model, optimizer, batch_size, memory_length, 0))
  param_shardings = partitioner.param_shardings(shapes.params, model.param_axes())
  replicated = partitioner.replicated
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)

  def like_param(leaf, param, sharding):
    if masked(leaf):
      return leaf
    # A factored optimizer's statistics have another shape than their parameter.
    return sharding if leaf.shape == param.shape else replicated

  # Between the layers the sequence is split, and so is its past where it divides.
  length = "residual_length" if memory_length % partitioner.mesh.shape["tensor"] == 0 else "length"
  shardings = TrainState(
      step=replicated,
      params=param_shardings,
      opt_state=optax.tree.map_params(optimizer, like_param, shapes.opt_state, shapes.params, param_shardings,
                                      transform_non_params=lambda _: replicated, is_leaf=masked),
      memory=Memory(layers=partitioner.sharding("layers", "batch", length, None),
                    segment_ids=partitioner.sharding("batch", "length")),
  )
  attach = lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
  return jax.tree.map(attach, shapes, shardings)


def init_state(model: LanguageModel, optimizer: optax.GradientTransformation, shapes: TrainState,
               seed: int, partitioner: Partitioner) -> TrainState:
  """A fresh state, made in place on the mesh; the parameters do not depend on the mesh."""
  batch_size, memory_length = shapes.memory.segment_ids.shape
  init = lambda: _init(model, optimizer, batch_size, memory_length, seed)
  with partitioner.activate():
    return jax.jit(init, out_shardings=jax.tree.map(lambda shape: shape.sharding, shapes))()


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
  """The keys of a run's parameters and of its steps, split from the seed as t5x splits it: both loops draw alike."""
  init_key, step_key = jax.random.split(jax.random.key(seed))
  return init_key, step_key


def _init(model, optimizer, batch_size, memory_length, seed) -> TrainState:
  params = model.init(run_keys(seed)[0])
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params),
                    memory=model.initial_memory(batch_size, memory_length))
