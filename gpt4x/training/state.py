"""TrainState: all that a step changes."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax

from gpt4x.models.language_model import Params

Trained = Callable[[str], bool]  # Whether a parameter of this name, such as 'layers/attention/query', is trained.


def everything(name: str) -> bool:
  return True


class TrainState(flax.struct.PyTreeNode):
  """What a step starts from."""

  step: jax.Array  # [] int32, steps done.
  params: Params
  opt_state: Any  # The optimizer's, for the trained parameters only.
  memory: Any  # As the objective makes it.
  # Parameters that are never differentiated, by name: a teacher's, a reference's. Checkpoints leave them out.
  frozen: dict[str, Any] = flax.struct.field(default_factory=dict)


def select(tree: Any, trained: Trained, is_leaf: Callable[[Any], bool] | None = None) -> tuple[Any, Any]:
  """The trained part of a tree and the rest; each has None in the places of the other."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  part = lambda wanted: jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf if trained(name(path)) == wanted else None, tree, is_leaf=is_leaf)
  return part(True), part(False)


def merge(trained: Any, fixed: Any) -> Any:
  """The inverse of `select`."""
  return jax.tree.map(lambda one, other: other if one is None else one, trained, fixed, is_leaf=lambda x: x is None)


def run_keys(seed: int) -> jax.Array:
  """[2] keys, of a run's parameters and of its steps, split from the seed as t5x does: both loops draw alike."""
  return jax.random.split(jax.random.key(seed))
