"""More ids for a model: the parameters of one that knows the first of them, with new rows for the others.

The embeddings of codes' places, which a model of text alone has none of, are new as a whole.
"""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax

from gpt4x.models.parameters import Declaration

_PLACES = ("vocabulary", "code_places")


def narrower(shapes: Any, declarations: Any, saved: Mapping[str, tuple[int, ...]]) -> tuple[Any, Any]:
  """The shapes and declarations of those parameters that are in `saved`, with as many ids; its shapes are by name.

  Their rows are whole on every device, since so many need not divide over a mesh.
  """
  def shape(path: Any, leaf: jax.ShapeDtypeStruct, declaration: Declaration) -> jax.ShapeDtypeStruct:
    there = saved.get(jax.tree_util.keystr(path, simple=True, separator="/"), ())
    if (axis := _axis(declaration)) is None or len(there) != leaf.ndim:
      return leaf
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], there[axis], *leaf.shape[axis + 1:]), leaf.dtype)

  whole = lambda one: one.replace(names=tuple(None if name == "vocab" else name for name in one.names))
  found = (jax.tree_util.tree_map_with_path(shape, shapes, declarations),
           jax.tree.map(whole, declarations, is_leaf=lambda one: isinstance(one, Declaration)))
  return found if "/".join(_PLACES) in saved else (_without_places(found[0]), _without_places(found[1]))


def extended(params: Any, fresh: Any, declarations: Any, count: int) -> Any:
  """`params`, whose ids from `count` on are those of `fresh`, which has more of them, with its shardings."""
  known = traverse_util.flatten_dict(params)
  def one(old: jax.Array, new: jax.Array, declaration: Declaration) -> jax.Array:
    if (axis := _axis(declaration)) is None:
      return old
    rows = (slice(None),) * axis + (slice(0, count),)
    return jax.jit(lambda old, new: new.at[rows].set(old[rows]), out_shardings=new.sharding)(old, new)

  declared = traverse_util.flatten_dict(declarations)
  return traverse_util.unflatten_dict({path: one(known[path], leaf, declared[path]) if path in known else leaf
                                       for path, leaf in traverse_util.flatten_dict(fresh).items()})


def _without_places(tree: Any) -> Any:
  flat = traverse_util.flatten_dict(tree)
  return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path != _PLACES})


def _axis(declaration: Declaration) -> int | None:
  """The axis of ids."""
  return declaration.names.index("vocab") if "vocab" in declaration.names else None
