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
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel

_FEWEST_BYTES = 2  # Of a number in a file.
_MOST_LAYERS = 10_000

@dataclasses.dataclass(frozen=True)
class Source:
  """Where a parameter comes from: a tensor of this shape; tied models may have it under one name or several."""

  names: tuple[str, ...]
  shape: tuple[int, ...]
  convert: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor

  def read(self, file: TensorFile) -> np.ndarray:
    """Reads the parameter; raises UserError if tensors that have to be equal differ."""
    first, *others = [name for name in self.names if name in file.shapes]
    tensor = file.read(first)
    for other in others:
      if not np.array_equal(tensor, file.read(other)):
        raise UserError(f"{file.where}: the tensors {first} and {other} differ, but the configuration beside them makes"
                        " them one: correct what it ties")
    return self.convert(tensor)


def check_size(config: TransformerConfig, file: TensorFile) -> None:
  """Refuses a model that the file cannot hold, before anything is made of it: sizes may have any number of digits."""
  if (count := config.num_params()) > file.size // _FEWEST_BYTES:
    raise UserError(f"{file.where}: {file.size:,} bytes are too few for the {count:.6g} parameters that the"
                    " configuration beside it makes: copy the file again, or correct the configuration")
  if config.num_layers > _MOST_LAYERS:  # They may share their parameters.
    raise UserError(f"{file.where}: the configuration beside it makes {config.num_layers:,} layers, and"
                    f" {_MOST_LAYERS:,} are the most: correct it")


def load(model: LanguageModel, file: TensorFile, sources: Mapping[str, Source], ignored: Collection[str] = ()) -> Any:
  """Checks names and shapes, then reads the model's float32 parameters one after another.

  `sources` has each of the names in `shapes`; tensors that are `ignored` may be in the file as well.
  """
  remedy = "copy the file again, or correct the configuration beside it"
  known = set(ignored)
  for source in sources.values():
    if not (present := [name for name in source.names if name in file.shapes]):
      raise UserError(f"{file.where}: the tensor {source.names[0]} is missing: {remedy}")
    for name in present:
      if file.shapes[name] != source.shape:
        raise UserError(f"{file.where}: the tensor {name} is {list(file.shapes[name])}, and {list(source.shape)} by its"
                        f" configuration: {remedy}")
    known.update(present)
  if unknown := sorted(file.shapes.keys() - known):
    others = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
    raise UserError(f"{file.where}: the tensor {unknown[0]}{others} is none of this model's: {remedy}")

  tree, leaves = model.declared[0], []
  for names, stacked, leaf in _named_leaves(tree):
    rows = np.empty((len(names), *leaf.shape[stacked:]), np.float32)
    for row, name in zip(rows, names):
      row[...] = sources[name].read(file)
    leaves.append(jnp.asarray(rows.reshape(leaf.shape)))
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter."""
  return {name: leaf.shape[stacked:] for names, stacked, leaf in _named_leaves(model.declared[0]) for name in names}


def split(params: Any) -> dict[str, np.ndarray]:
  """Every parameter on the host; on CPU these are views."""
  return {name: row for names, stacked, leaf in _named_leaves(jax.tree.map(np.asarray, params))
          for name, row in zip(names, leaf if stacked else [leaf])}


def _named_leaves(tree: Any) -> Iterator[tuple[list[str], bool, Any]]:
  """Each leaf with its names, and whether it has a leading axis of layers; in the order of `jax.tree.leaves`."""
  # A model may scan over blocks of layers: layers/layers_0, layers/layers_1 and so on.
  period = max(1, sum(name.startswith("layers_") for name in tree.get("layers", {})))
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    first, *rest = [entry.key for entry in path]
    if first != "layers":
      yield [".".join((re.sub(r"^layers_(\d+)$", r"layers.\1", first), *rest))], False, leaf
      continue
    place, rest = (int(rest[0].removeprefix("layers_")), rest[1:]) if rest[0].startswith("layers_") else (0, rest)
    yield [".".join(("layers", str(block * period + place), *rest)) for block in range(leaf.shape[0])], True, leaf
