"""What a checkpoint holds: the names of the leaves of a train state, and the Orbax trees that they are saved in."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from gpt4x.errors import UserError

PyTree = Any
ITEMS = ("params", "state")  # Evaluation reads only the first.
_NOT_SAVED = "frozen"


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
  """Leaves by name, such as 'params/decoder/final_norm/scale', in the order of `jax.tree.leaves`."""
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def saved_leaves(tree: PyTree) -> dict[str, Any]:
  """Leaves by name without those under `frozen`, which are saved elsewhere and never change."""
  return {name: leaf for name, leaf in leaves_by_name(tree).items() if name.split("/")[0] != _NOT_SAVED}


def item_of(name: str) -> str:
  """Which of ITEMS a leaf is saved in."""
  return "params" if name.startswith("params/") else "state"


def items(leaves: Mapping[str, Any]) -> dict[str, PyTree]:
  """The Orbax trees of a checkpoint: nested dicts, so that what is on disk does not depend on our classes."""
  trees: dict[str, PyTree] = {}
  for name, leaf in leaves.items():
    if not leaf.size:  # Orbax refuses them, and there is nothing to save.
      continue
    tree = trees.setdefault(item_of(name), {})
    *parents, last = name.split("/")
    for parent in parents:
      tree = tree.setdefault(parent, {})
    tree[last] = leaf
  return trees


def read(directory: epath.Path, abstract: PyTree) -> PyTree:
  """Reads the leaves of `abstract` from a step's directory onto their shardings; its frozen leaves stay as they are."""
  wanted = saved_leaves(abstract)
  found = leaves_by_name(abstract)
  found |= {name: _empty(leaf) for name, leaf in wanted.items() if not leaf.size}
  for item, tree in items(wanted).items():
    with ocp.PyTreeCheckpointer() as checkpointer:
      found |= leaves_by_name(checkpointer.restore(directory / item, args=ocp.args.PyTreeRestore(
          tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))))
  return jax.tree.unflatten(jax.tree.structure(abstract), found.values())


def _empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, np.zeros(leaf.shape, leaf.dtype).__getitem__)


def check_shapes(checkpoint: str, saved: Mapping[str, tuple[Any, Any]], wanted: Mapping[str, Any]) -> None:
  """Raises UserError that names a leaf unless both sides have the same leaves, dtypes and shapes.

  Args:
    checkpoint: what to call it.
    saved: (dtype, shape) of each leaf.
    wanted: each leaf, or its ShapeDtypeStruct.
  """
  describe = lambda dtype, shape: f"{dtype}{list(shape)}"
  there = {name: describe(*leaf) for name, leaf in saved.items()}
  here = {name: describe(leaf.dtype, leaf.shape) for name, leaf in wanted.items()}
  different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
  if different:
    name = different[0]
    others = f" (and {len(different) - 1} more leaves differ)" if different[1:] else ""
    raise UserError(
        f"{checkpoint} does not fit this configuration: {name} is {there.get(name, 'missing')} in the checkpoint and"
        f" {here.get(name, 'missing')} in the configuration{others}: use the configuration it was saved with, or"
        " another model directory")
