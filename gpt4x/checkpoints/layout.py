"""What a checkpoint holds: the leaves of a train state by name, and the Orbax trees they are saved in."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from gpt4x.errors import UserError

PyTree = Any
ITEMS = ("params", "state")  # Evaluation reads only `params`.


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
  """Leaves by name, such as 'params/decoder/final_norm/scale', in the order of `jax.tree.leaves`."""
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def saved_leaves(tree: PyTree) -> dict[str, Any]:
  """Leaves by name without those under `frozen`, which never change and are saved elsewhere."""
  return {name: leaf for name, leaf in leaves_by_name(tree).items() if name.split("/")[0] != "frozen"}


def of_item(leaves: Mapping[str, Any], item: str) -> dict[str, Any]:
  """The leaves that are saved in one of ITEMS."""
  return {name: leaf for name, leaf in leaves.items() if name.startswith("params/") == (item == "params")}


def nested(leaves: Mapping[str, Any]) -> PyTree:
  """Leaves as nested dicts, so that what is on disk does not depend on our classes. Orbax refuses empty leaves."""
  return traverse_util.unflatten_dict({name: leaf for name, leaf in leaves.items() if leaf.size}, sep="/")


def read(directory: epath.Path, leaves: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
  """Reads leaves by name from the Orbax tree in a directory onto their shardings."""
  found: dict[str, Any] = {
      name: jax.make_array_from_callback(leaf.shape, leaf.sharding, np.zeros(leaf.shape, leaf.dtype).__getitem__)
      for name, leaf in leaves.items() if not leaf.size}
  if tree := nested(leaves):
    with ocp.PyTreeCheckpointer() as checkpointer:
      found |= leaves_by_name(checkpointer.restore(directory, args=ocp.args.PyTreeRestore(
          tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True)))
  return found


def check_shapes(checkpoint: str, saved: Mapping[str, tuple[Any, Any]], wanted: Mapping[str, Any]) -> None:
  """Raises UserError that names a leaf unless `saved`, (dtype, shape) by name, agrees with the arrays `wanted`."""
  there = {name: f"{dtype}{list(shape)}" for name, (dtype, shape) in saved.items()}
  here = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
  if different := [name for name in {**here, **there} if here.get(name) != there.get(name)]:
    name = different[0]
    others = f" (and {len(different) - 1} more leaves differ)" if different[1:] else ""
    raise UserError(
        f"{checkpoint} does not fit this configuration: {name} is {there.get(name, 'missing')} in the checkpoint and"
        f" {here.get(name, 'missing')} in the configuration{others}: use the configuration it was saved with, or"
        " another model directory")
