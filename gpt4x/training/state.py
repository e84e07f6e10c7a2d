"""TrainState: all that a step changes, and where on the mesh it lies."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gpt4x.models.language_model import Params
from gpt4x.models.memory import map_memories
from gpt4x.partitioning import Partitioner

if TYPE_CHECKING:
  from gpt4x.training.step import TrainStep

Trained = Callable[[str], bool]  # By the name of a parameter, such as 'layers/attention/query'.


def everything(name: str) -> bool:
  del name
  return True


@flax.struct.dataclass
class TrainState:
  """What a step starts from.

  Attributes:
    step: [] int32, steps done.
    params: the model's.
    opt_state: of the parameters that are trained.
    memory: as the objective makes it.
    frozen: parameters that are never differentiated, by name: of a teacher, a reference. Not saved in checkpoints.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  memory: Any
  frozen: dict[str, Any] = flax.struct.field(default_factory=dict)


def select(tree: Any, trained: Trained, is_leaf: Callable[[Any], bool] | None = None) -> tuple[Any, Any]:
  """Two trees, what is trained and what is not; each has None in the places of the other."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  part = lambda wanted: jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf if trained(name(path)) == wanted else None, tree, is_leaf=is_leaf)
  return part(True), part(False)


def merge(trained: Any, fixed: Any) -> Any:
  """The inverse of `select`."""
  return jax.tree.map(lambda one, other: other if one is None else one, trained, fixed, is_leaf=lambda x: x is None)


def state_shapes(step: "TrainStep", batch_size: int, memory_length: int, partitioner: Partitioner,
                 frozen: dict[str, Any] | None = None) -> TrainState:
  """The state as ShapeDtypeStructs with their shardings; nothing is computed."""
  params, declarations = step.model.declared
  placed = partitioner.place(params, declarations)
  trained, _ = select(placed, step.trained)
  replicated = partitioner.replicated
  attach = lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)

  def like_param(leaf, param):
    if masked(leaf):
      return leaf
    # A factored optimizer's statistics have another shape than their parameter.
    return attach(leaf, param.sharding if leaf.shape == param.shape else replicated)

  memory = jax.eval_shape(lambda: step.objective.initial_memory(step.model, batch_size, memory_length))

  def place_memory(one):
    # Between the layers the sequence is split, and so is its past where it divides.
    positions = "residual_length" if one.length % partitioner.mesh.shape["tensor"] == 0 else "length"
    return jax.tree.map(lambda leaf, axes: attach(leaf, partitioner.sharding(*axes)), one, one.logical_axes(positions))

  return TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
      params=placed,
      opt_state=optax.tree.map_params(
          step.transformation, like_param, jax.eval_shape(step.transformation.init, trained), trained,
          transform_non_params=lambda leaf: attach(leaf, replicated), is_leaf=masked),
      memory=map_memories(place_memory, memory),
      frozen=frozen or {})


def init_state(step: "TrainStep", shapes: TrainState, partitioner: Partitioner) -> TrainState:
  """A fresh state, made in place on the mesh; the parameters do not depend on the mesh."""
  def init():
    params = step.model.init(run_keys(step.seed)[0])
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=step.transformation.init(select(params, step.trained)[0]),
        memory=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.memory))

  with partitioner.activate():
    shardings = jax.tree.map(lambda shape: shape.sharding, shapes.replace(frozen={}))
    return jax.jit(init, out_shardings=shardings)().replace(frozen=shapes.frozen)


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
  """The keys of a run's parameters and of its steps, split from the seed as t5x splits it: both loops draw alike."""
  init_key, step_key = jax.random.split(jax.random.key(seed))
  return init_key, step_key
