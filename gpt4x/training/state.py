"""TrainState: all that a step changes."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import flax.struct
import jax

from gpt4x.models.language_model import Params

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


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
  """The keys of a run's parameters and of its steps, split from the seed as t5x splits it: both loops draw alike."""
  init_key, step_key = jax.random.split(jax.random.key(seed))
  return init_key, step_key
