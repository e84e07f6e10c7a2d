"""What may change between the starts of a run, and how leaves of a checkpoint become those of today's train state.

An optimizer's count of updates comes and goes with its learning rate, which may be a schedule or a number; earlier
versions laid the optimizer's state one level higher where gradients were not clipped; and what is no parameter may have
another floating-point type, as the memory has on another accelerator.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_OPTIMIZER = "opt_state/"
_FLOATS = {"float64", "float32", "bfloat16", "float16"}

Leaf = tuple[str, tuple[int, ...]]  # (dtype, shape)


def names(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
  """The name in the checkpoint of each leaf that is wanted; those that are not in it have their own."""
  below = {name: name.replace(_OPTIMIZER, f"{_OPTIMIZER}1/", 1) for name in saved if name.startswith(_OPTIMIZER)}
  unclipped = bool(below) and all(name in wanted or _is_count(name) for name in below.values())
  today = {below.get(name, name) if unclipped else name: name for name in saved}
  return {name: today.get(name, name) for name in wanted}


def expected(saved: Mapping[str, Leaf], wanted: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Leaf]:
  """The saved leaves by today's names, as they are once they are read and `fill`ed."""
  left = {name: leaf for name, leaf in saved.items() if name not in named.values() and not _is_count(name)}
  found = {name: saved[old] for name, old in named.items() if old in saved}
  found |= {name: (str(wanted[name].dtype), leaf[1]) for name, leaf in found.items()
            if _is_cast(name, leaf, wanted[name])}
  missing = {name: (str(leaf.dtype), tuple(leaf.shape)) for name, leaf in wanted.items()
             if name not in found and _is_count(name)}
  return found | missing | left


def fill(leaf: jax.ShapeDtypeStruct, step: int) -> jax.Array:
  """A count of updates that the checkpoint has not: as many as steps."""
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, np.full(leaf.shape, step, leaf.dtype).__getitem__)


def _is_count(name: str) -> bool:
  return name.startswith(_OPTIMIZER) and name.endswith("/count")


def _is_cast(name: str, saved: Leaf, wanted: Any) -> bool:
  """Whether a leaf may be read as another floating-point type."""
  return name.startswith((_OPTIMIZER, "memory/")) and saved[0] in _FLOATS and wanted.dtype.name in _FLOATS
