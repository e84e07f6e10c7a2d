"""Reads files of `torch.save` without torch; tensors are mapped into memory and loaded when they are used.

A file has a pickle, in which every tensor is a view (offset, shape, strides) of a storage, and the bytes of the
storages: a zip archive since torch 1.6, one after another before. A pickle can run any code, so only containers and
tensors may be named.
"""

import collections
from collections.abc import Callable
import dataclasses
import io
import math
import mmap
import os
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError

_ENTRY = b"PK\3\4"  # The start of every entry of a zip archive.
_MAGIC = 0x1950A86A20F9469CFC6C  # The first object of a file from before version 1.6.
_DTYPES = {"Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16, "Double": np.float64,
           "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_}


@dataclasses.dataclass
class Storage:
  """`size` numbers somewhere in the file."""

  dtype: np.dtype
  key: str
  size: int
  numbers: np.ndarray | None = None  # Mapped once the file has been read.


@dataclasses.dataclass
class Tensor:
  """A view of a storage; offset and strides count numbers, not bytes."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def array(self) -> np.ndarray:
    """The tensor as a view of the file."""
    numbers = self.storage.numbers[self.offset:]
    strides = [stride * numbers.itemsize for stride in self.strides]
    return np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)


class Malformed(Exception):
  """Says in a few words what is wrong with a file."""


def load(path: str | os.PathLike, unknown: Callable[[str], Any] | None = None) -> Any:
  """Reads the object of `torch.save` or of a plain pickle, with a `Tensor` for every tensor.

  `unknown` gives a stand-in for a name that is no container or tensor; without it such a name is a UserError.
  """
  try:
    with open(path, "rb") as file:
      if file.peek(4)[:4] == _ENTRY:
        return _load_zip(file, unknown)
      content = _Unpickler(file, unknown).load()
      return _load_sequence(file, unknown) if content == _MAGIC else content
  except Malformed as error:
    raise UserError(f"{path}: {error}") from None
  except OSError:
    raise
  except Exception as error:  # A damaged file may raise anything.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is not a whole file of torch.save ({reason}): copy it again") from error


class _Unpickler(pickle.Unpickler):
  """Finds only what `torch.save` needs for dictionaries of tensors."""

  def __init__(self, file: BinaryIO, unknown: Callable[[str], Any] | None):
    super().__init__(file, encoding="utf-8")
    self.tensors: list[Tensor] = []
    self.storages: dict[str, Storage] = {}
    self._unknown = unknown

  def find_class(self, module: str, name: str) -> Any:
    full_name = f"{module}.{name}"
    known = {"collections.OrderedDict": collections.OrderedDict, "collections.Counter": collections.Counter,
             "torch._utils._rebuild_tensor_v2": self._tensor,
             "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
             **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}}
    if full_name in known:
      return known[full_name]
    if self._unknown:
      return self._unknown(full_name)
    raise Malformed(f"names {full_name}, which is neither a tensor nor a plain container: save a state dict of tensors")

  def persistent_load(self, pid: tuple[Any, ...]) -> Storage:
    kind, dtype, key, _, size, *view = pid
    if kind != "storage" or any(view):
      raise Malformed(f"has a {kind!r} that is no plain storage: save a state dict of tensors")
    storage = self.storages.setdefault(str(key), Storage(dtype, str(key), size))
    if (storage.dtype, storage.size) != (dtype, size):
      raise Malformed(f"describes its storage {key} in two ways: copy it again")
    return storage

  def _tensor(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_) -> Tensor:
    self.tensors.append(Tensor(storage, offset, tuple(shape), tuple(strides)))
    return self.tensors[-1]


def _load_zip(file: BinaryIO, unknown: Callable[[str], Any] | None) -> Any:
  """Reads an archive with the objects in `*/data.pkl` and a storage's numbers in `*/data/KEY`, uncompressed."""
  archive = zipfile.ZipFile(file)
  entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
  if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
    raise Malformed("is not little-endian: save it again on an ordinary machine")
  unpickler = _Unpickler(io.BytesIO(archive.read(entries["data.pkl"])), unknown)
  loaded, starts = unpickler.load(), {}
  for key, storage in unpickler.storages.items():
    entry = entries[f"data/{key}"]
    if entry.compress_type != zipfile.ZIP_STORED:
      raise Malformed(f"has its entry data/{key} compressed: save it with torch.save alone")
    if entry.file_size != storage.size * storage.dtype.itemsize:
      raise Malformed(f"has no {storage.size} {storage.dtype} in its storage {key}: copy it again")
    file.seek(entry.header_offset + 26)  # The entry's own header may be longer than the archive's directory says.
    starts[key] = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
  return _connect(file, unpickler, starts, loaded)


def _load_sequence(file: BinaryIO, unknown: Callable[[str], Any] | None) -> Any:
  """Reads what follows the magic number: the format's version, the machine, the objects, the keys, the storages."""
  _Unpickler(file, None).load()
  if not _Unpickler(file, None).load()["little_endian"]:
    raise Malformed("is not little-endian: save it again on an ordinary machine")
  unpickler = _Unpickler(file, unknown)
  loaded, starts = unpickler.load(), {}
  for key in _Unpickler(file, None).load():
    storage = unpickler.storages[key]
    if file.read(8) != struct.pack("<q", storage.size):
      raise Malformed(f"has no {storage.size} {storage.dtype} in its storage {storage.key}: copy it again")
    starts[key] = file.tell()
    file.seek(storage.size * storage.dtype.itemsize, os.SEEK_CUR)
  return _connect(file, unpickler, starts, loaded)


def _connect(file: BinaryIO, unpickler: _Unpickler, starts: dict[str, int], loaded: Any) -> Any:
  """Maps the storages, which start at these bytes of the file, and checks that every tensor lies inside its own."""
  if unpickler.tensors:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for key, storage in unpickler.storages.items():
      storage.numbers = np.frombuffer(mapped, storage.dtype, storage.size, starts[key])
  for tensor in unpickler.tensors:  # Checked last, since a pickle may change its tensors.
    if not _lies_inside(tensor):
      raise Malformed(f"has a tensor {list(tensor.shape)} that does not lie inside its storage {tensor.storage.key}:"
                      " copy it again")
  return loaded


def _lies_inside(tensor: Tensor) -> bool:
  numbers = (tensor.offset, *tensor.shape, *tensor.strides)
  if len(tensor.shape) != len(tensor.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
    return False
  last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides))
  return (last if math.prod(tensor.shape) else tensor.offset - 1) < len(tensor.storage.numbers)
