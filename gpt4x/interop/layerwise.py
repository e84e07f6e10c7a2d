"""Parameters by name, layer by layer ('layers.0.attention.query'), whether or not the model scans over its layers."""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.interop.tensor_files import TensorFile
from gpt4x.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a parameter comes from: a tensor of this shape, which tied models may have under several names or one."""

  names: tuple[str, ...]
  shape: tuple[int, ...]
  convert: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor

  def read(self, file: TensorFile) -> np.ndarray:
    """The parameter; raises UserError if tensors that are to be one differ."""
    first, *others = [name for name in self.names if name in file.shapes]
    tensor = file.read(first)
    for other in others:
      if not np.array_equal(tensor, file.read(other)):
        raise UserError(f"{file.where}: the tensors {first} and {other} differ, but the configuration beside them makes"
                        " them one: correct what it ties")
    return self.convert(tensor)


def load(model: LanguageModel, file: TensorFile, sources: Mapping[str, Source], ignored: Collection[str] = ()) -> Any:
  """The model's parameters in float32, read one after another; first, names and shapes are checked.

  Args:
    model: the language model.
    file: what to read.
    sources: of each of the names in `shapes`.
    ignored: tensors that may be there as well.
  """
  remedy = "copy the file again, or correct the configuration beside it"
  known = set(ignored)
  for source in sources.values():
    present = [name for name in source.names if name in file.shapes]
    if not present:
      raise UserError(f"{file.where}: the tensor {source.names[0]} is missing: {remedy}")
    for name in present:
      if file.shapes[name] != source.shape:
        raise UserError(f"{file.where}: the tensor {name} is {list(file.shapes[name])}, and {list(source.shape)} by its"
                        f" configuration: {remedy}")
    known.update(present)
  if unknown := sorted(set(file.shapes) - known):
    others = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
    raise UserError(f"{file.where}: the tensor {unknown[0]}{others} is none of this model's: {remedy}")

  tree = jax.eval_shape(model.init, jax.random.key(0))

  def read(path, leaf):
    arrays = (sources[name].read(file) for name in _names(path, leaf, _period(tree)))
    if not _is_stacked(path):
      return jnp.asarray(np.array(next(arrays), np.float32))  # A copy: arrays may be views of a file.
    stacked = np.empty(leaf.shape, np.float32)
    for i, array in enumerate(arrays):
      stacked[i] = array
    return jnp.asarray(stacked)

  return jax.tree_util.tree_map_with_path(read, tree)


def shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter."""
  return {name: value.shape for name, value in _by_layer(jax.eval_shape(model.init, jax.random.key(0)))}


def split(params: Any) -> dict[str, np.ndarray]:
  """Every parameter on the host; on CPU these are views."""
  return dict(_by_layer(jax.tree.map(np.asarray, params)))


def _by_layer(tree: Any) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    names = _names(path, leaf, _period(tree))
    if _is_stacked(path):
      # A shape has no rows.
      rows = leaf if isinstance(leaf, np.ndarray) else [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * len(names)
      yield from zip(names, rows)
    else:
      yield names[0], leaf


def _is_stacked(path: tuple[Any, ...]) -> bool:
  return path[0].key == "layers"


def _period(tree: Any) -> int:
  """The layers of a block, where the model scans over blocks: layers/layers_0, layers/layers_1 and so on."""
  return max(1, sum(name.startswith("layers_") for name in tree.get("layers", {})))


def _names(path: tuple[Any, ...], leaf: Any, period: int) -> list[str]:
  first, *rest = [entry.key for entry in path]
  if not _is_stacked(path):
    return [".".join((re.sub(r"^layers_(\d+)$", r"layers.\1", first), *rest))]
  place = 0
  if rest[0].startswith("layers_"):
    place, rest = int(rest[0].removeprefix("layers_")), rest[1:]
  return [".".join(("layers", str(block * period + place), *rest)) for block in range(leaf.shape[0])]
