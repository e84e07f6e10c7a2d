"""The tensors of a directory by name, whatever files they are in. Shapes are read first, each tensor when asked for."""

from collections.abc import Callable
import dataclasses
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors

from gpt4x.errors import one_line, UserError
from gpt4x.interop import json_files, torch_files

SAFETENSORS = "model.safetensors"
_FLOATS = {"F64", "F32", "F16", "BF16"}  # Names of safetensors.
_MAX_NAME = 500  # Characters.


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """Floating-point tensors of one file or several."""

  where: pathlib.Path  # The file, or the directory of several, for messages.
  size: int  # In bytes.
  shapes: dict[str, tuple[int, ...]]  # By the tensors' names.
  read: Callable[[str], np.ndarray]  # Reads the tensor of a name, in the file's dtype.

  def __post_init__(self):
    for name in self.shapes:
      if len(name) > _MAX_NAME or not name.isprintable():
        raise UserError(f"{self.where}: {one_line(name)!r} is no name of a tensor: copy it again")


def open_directory(directory: str | os.PathLike, stem: str = "model", torch_stem: str = "pytorch_model") -> TensorFile:
  """Opens STEM.safetensors, else TORCH_STEM.bin, whole or in shards."""
  directory = pathlib.Path(directory)
  files = f"{stem}.safetensors", f"{torch_stem}.bin"
  for name, open_file in zip(files, (_open_safetensors, _open_torch)):
    if (directory / name).is_file():
      return open_file(directory / name)
    if (index := directory / f"{name}.index.json").is_file():
      return _join(index, open_file)
  raise UserError(f"no weights in {directory}: there must be {files[0]} or {files[1]}, or the index of its shards")


def _join(index: pathlib.Path, open_file: Callable[[pathlib.Path], TensorFile]) -> TensorFile:
  """The tensors of all shards that an index names."""
  shards, directory, files = json_files.read(index).get("weight_map"), index.parent, {}
  if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
    raise UserError(f"{index} has no weight_map of tensors to files: copy it again")
  for name, shard in shards.items():
    if os.path.basename(shard) != shard or not shard.isprintable() or shard in ("", ".", ".."):
      raise UserError(f"{index}: the tensor {one_line(name)} is in {one_line(repr(shard))}, which names no file beside"
                      " it: copy it again")
    if not os.path.isfile(directory / shard):
      raise UserError(f"{directory / one_line(shard)}, which has the tensor {one_line(name)}, is missing: copy it"
                      " there")
    if shard not in files:
      files[shard] = open_file(directory / shard)
    if name not in files[shard].shapes:
      raise UserError(f"{directory / shard}: the tensor {one_line(name)} is missing, where the index has it: copy the"
                      " file again")
  found = {name: file for file in files.values() for name in file.shapes}
  found |= {name: files[shard] for name, shard in shards.items()}
  shapes = {name: file.shapes[name] for name, file in found.items()}
  size = sum(file.size for file in files.values())
  return TensorFile(directory, size, shapes, lambda name: found[name].read(name))


def _open_safetensors(path: pathlib.Path) -> TensorFile:
  try:
    file = safetensors.safe_open(path, framework="numpy")
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is not a whole safetensors file ({one_line(error)}): copy it again") from error
  shapes = {}
  for name in sorted(file.keys()):
    tensor = file.get_slice(name)
    _check_type(path, name, tensor.get_dtype(), tensor.get_dtype() in _FLOATS)
    shapes[name] = tuple(tensor.get_shape())
  return TensorFile(path, path.stat().st_size, shapes, file.get_tensor)


def _open_torch(path: pathlib.Path) -> TensorFile:
  tensors = torch_files.load(path)
  if not isinstance(tensors, dict):
    raise UserError(f"{path} holds a {type(tensors).__name__}, not tensors by name: save the model's state dict")
  for name, tensor in tensors.items():
    if not isinstance(tensor, torch_files.Tensor):
      raise UserError(f"{path}: {one_line(name)} is a {type(tensor).__name__}, not a tensor: save the model's state"
                      " dict")
    _check_type(path, name, tensor.storage.dtype, jnp.issubdtype(tensor.storage.dtype, jnp.floating))
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  return TensorFile(path, path.stat().st_size, shapes, lambda name: tensors[name].array())


def _check_type(path: pathlib.Path, name: str, dtype: object, known: bool) -> None:
  if not known:
    raise UserError(f"{path}: the tensor {one_line(name)} is of type {dtype}: save it as float32")
