"""Parameters by name, layer by layer ('layers.0.attention.query'), whether or not the model scans over its layers."""

from collections.abc import Callable, Iterator
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.models.language_model import LanguageModel


def shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter."""
  return {name: value.shape for name, value in _by_layer(jax.eval_shape(model.init, jax.random.key(0)))}


def split(params: Any) -> dict[str, np.ndarray]:
  """Every parameter on the host; on CPU these are views."""
  return dict(_by_layer(jax.tree.map(np.asarray, params)))


def assemble(model: LanguageModel, read: Callable[[str], np.ndarray]) -> Any:
  """The model's parameters, in float32, from what `read` gives for each name: one parameter after another."""
  def one(path, leaf):
    names = _names(path, leaf)
    if len(names) == 1 and not _is_stacked(path):
      return jnp.asarray(np.array(read(names[0]), np.float32))  # A copy: arrays may be views of a file.
    stacked = np.empty(leaf.shape, np.float32)
    for i, name in enumerate(names):
      stacked[i] = read(name)
    return jnp.asarray(stacked)

  return jax.tree_util.tree_map_with_path(one, jax.eval_shape(model.init, jax.random.key(0)))


def _by_layer(tree: Any) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    names = _names(path, leaf)
    if _is_stacked(path):
      # A shape has no rows.
      rows = leaf if isinstance(leaf, np.ndarray) else [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * len(names)
      yield from zip(names, rows)
    else:
      yield names[0], leaf


def _is_stacked(path: tuple[Any, ...]) -> bool:
  return path[0].key == "layers"


def _names(path: tuple[Any, ...], leaf: Any) -> list[str]:
  first, *rest = [entry.key for entry in path]
  if _is_stacked(path):
    return [".".join(("layers", str(i), *rest)) for i in range(leaf.shape[0])]
  return [".".join((re.sub(r"^layers_(\d+)$", r"layers.\1", first), *rest))]
