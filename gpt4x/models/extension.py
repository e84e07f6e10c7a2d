"""More ids for a model: the parameters of one that knows the first of them, with new rows for the others."""

from collections.abc import Mapping
from typing import Any

import jax

from gpt4x.models.parameters import Declaration


def narrower(shapes: Any, declarations: Any, saved: Mapping[str, tuple[int, ...]]) -> tuple[Any, Any]:
  """The shapes and declarations of parameters with as many ids as in `saved`, the shapes by name.

  Their rows are whole on every device, since so many need not divide over a mesh.
  """
  def shape(path: Any, leaf: jax.ShapeDtypeStruct, declaration: Declaration) -> jax.ShapeDtypeStruct:
    there = saved.get(jax.tree_util.keystr(path, simple=True, separator="/"), ())
    if (axis := _axis(declaration)) is None or len(there) != leaf.ndim:
      return leaf
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], there[axis], *leaf.shape[axis + 1:]), leaf.dtype)

  whole = lambda one: one.replace(names=tuple(None if name == "vocab" else name for name in one.names))
  return (jax.tree_util.tree_map_with_path(shape, shapes, declarations),
          jax.tree.map(whole, declarations, is_leaf=lambda one: isinstance(one, Declaration)))


def extended(params: Any, fresh: Any, declarations: Any, count: int) -> Any:
  """`params`, whose ids from `count` on are those of `fresh`, which has more of them, with its shardings."""
  def one(old: jax.Array, new: jax.Array, declaration: Declaration) -> jax.Array:
    if (axis := _axis(declaration)) is None:
      return old
    rows = (slice(None),) * axis + (slice(0, count),)
    return jax.jit(lambda old, new: new.at[rows].set(old[rows]), out_shardings=new.sharding)(old, new)

  return jax.tree.map(one, params, fresh, declarations)


def _axis(declaration: Declaration) -> int | None:
  """The axis of ids."""
  return declaration.names.index("vocab") if "vocab" in declaration.names else None
