"""The tensors of a directory by name, whatever files they are in. Shapes are read first, each tensor when asked for."""

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from gpt4x.errors import UserError
from gpt4x.interop import torch_files

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
_FLOATS = {"F64", "F32", "F16", "BF16"}  # Names of safetensors.


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """Floating-point tensors of one file or several."""

  where: pathlib.Path  # The file, or the directory of several, for messages.
  shapes: dict[str, tuple[int, ...]]  # By the tensors' names.
  read: Callable[[str], np.ndarray]  # Reads the tensor of a name, in the file's dtype.


def open_directory(directory: str | os.PathLike) -> TensorFile:
  """Opens `model.safetensors`, else `pytorch_model.bin`, whole or in shards."""
  directory = pathlib.Path(directory)
  for name, open_file in ((SAFETENSORS, _open_safetensors), (TORCH, _open_torch)):
    if (directory / name).exists():
      return open_file(directory / name)
    if (index := directory / f"{name}.index.json").exists():
      return _join(index, open_file)
  raise UserError(f"no weights in {directory}: there must be {SAFETENSORS} or {TORCH}, or the index of its shards")


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
      return content
    reason = "not an object"
  except FileNotFoundError as error:
    raise UserError(f"{path} is missing: copy it there, or name the directory that has it") from error
  except ValueError as error:
    reason = str(error)
  raise UserError(f"{path} is not a whole JSON file ({reason}): copy it again")


def _join(index: pathlib.Path, open_file: Callable[[pathlib.Path], TensorFile]) -> TensorFile:
  """The tensors of all shards that an index names."""
  shards, directory, files = read_json(index).get("weight_map"), index.parent, {}
  if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
    raise UserError(f"{index} has no weight_map of tensors to files: copy it again")
  for name, shard in shards.items():
    if pathlib.PurePath(shard).name != shard or not (directory / shard).exists():
      raise UserError(f"{directory / shard}, which has the tensor {name}, is missing: copy it there")
    if shard not in files:
      files[shard] = open_file(directory / shard)
    if name not in files[shard].shapes:
      raise UserError(f"{directory / shard}: the tensor {name} is missing, where the index has it: copy the file again")
  found = {name: file for file in files.values() for name in file.shapes}
  shapes = {name: file.shapes[name] for name, file in found.items()}
  return TensorFile(directory, shapes, lambda name: found[name].read(name))


def _open_safetensors(path: pathlib.Path) -> TensorFile:
  try:
    file = safetensors.safe_open(path, framework="numpy")
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is not a whole safetensors file ({error}): copy it again") from error
  shapes = {}
  for name in sorted(file.keys()):
    tensor = file.get_slice(name)
    if tensor.get_dtype() not in _FLOATS:
      raise UserError(f"{path}: the tensor {name} is of type {tensor.get_dtype()}: save it as float32")
    shapes[name] = tuple(tensor.get_shape())
  return TensorFile(path, shapes, file.get_tensor)


def _open_torch(path: pathlib.Path) -> TensorFile:
  tensors = torch_files.load(path)
  if not isinstance(tensors, dict):
    raise UserError(f"{path} holds a {type(tensors).__name__}, not tensors by name: save the model's state dict")
  for name, tensor in tensors.items():
    if not isinstance(tensor, torch_files.Tensor):
      raise UserError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor: save the model's state dict")
    if not jnp.issubdtype(tensor.storage.dtype, jnp.floating):
      raise UserError(f"{path}: the tensor {name} is of type {tensor.storage.dtype}: save it as float32")
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  return TensorFile(path, shapes, lambda name: tensors[name].array())
