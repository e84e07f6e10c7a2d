"""Reads files of `torch.save` without torch; tensors are mapped into memory and loaded when they are used.

A file has a pickle, in which every tensor is a view (offset, shape, strides) of a storage, and the bytes of the
storages: a zip archive since torch 1.6, one after another before. `pickles` reads the pickle, and all that it says of
tensors is checked before it is used.
"""

import dataclasses
import io
import math
import mmap
import os
import reprlib
import struct
from typing import Any, BinaryIO
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np

from gpt4x.errors import one_line, UserError
from gpt4x.interop import pickles
from gpt4x.interop.pickles import Malformed

_ENTRY = b"PK\3\4"  # The start of every entry of a zip archive.
_MAGIC = 0x1950A86A20F9469CFC6C  # The first object of a file from before version 1.6.
_DTYPES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in {
    "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16, "Double": np.float64, "Long": np.int64,
    "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_}.items()}
_MAX_AXES = 32


@dataclasses.dataclass
class Storage:
  """`size` numbers somewhere in the file."""

  dtype: np.dtype
  key: str
  size: int
  numbers: np.ndarray | None = None  # Mapped once the file has been read.


@dataclasses.dataclass(frozen=True)
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


def load(path: str | os.PathLike, skip_unknown: bool = False) -> Any:
  """Reads the object of `torch.save` or of a plain pickle, with a `Tensor` for every tensor.

  With `skip_unknown`, what is no container or tensor is left out; otherwise it is a UserError.
  """
  try:
    with open(path, "rb") as file:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
      if mapped[:len(_ENTRY)] == _ENTRY:
        return _load_zip(file, mapped, skip_unknown)
      content = _Objects(mapped).read(mapped, skip_unknown)
      return _load_sequence(mapped, skip_unknown) if content == _MAGIC else content
  except Malformed as error:
    raise UserError(f"{path}: {one_line(error)}") from None
  except (OSError, MemoryError):
    raise
  except Exception as error:  # A damaged file may raise anything.
    raise UserError(f"{path} is not a whole file of torch.save ({one_line(error)}): copy it again") from error


class _Objects:
  """The storages and tensors of a file."""

  def __init__(self, mapped: mmap.mmap):
    self.storages: dict[str, Storage] = {}
    self._mapped = mapped

  def read(self, file: Any, skip_unknown: bool = False) -> Any:
    """Reads a pickle."""
    known = {"torch._utils._rebuild_tensor_v2": self._tensor,
             "torch._utils._rebuild_parameter": lambda tensor, *_: tensor, **dict.fromkeys(_DTYPES)}
    return pickles.read(file, known, self._storage, skip_unknown)

  def connect(self, storage: Storage, start: int) -> int:
    """Maps a storage that starts at this byte of the file; returns its end."""
    end = start + storage.size * storage.dtype.itemsize
    if not 0 <= start <= end <= len(self._mapped):
      raise ValueError(f"its storage {storage.key} ends at byte {end:,} of {len(self._mapped):,}")
    storage.numbers = np.frombuffer(self._mapped, storage.dtype, storage.size, start)
    return end

  def _storage(self, pid: Any) -> Storage:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(view is not None for view in pid[5:]):
      raise Malformed("has something outside its pickle that is no plain storage: save a state dict of tensors")
    _, kind, key, _, size = pid[:5]
    if not isinstance(kind, pickles.Name) or kind.full not in _DTYPES or not isinstance(key, str):
      raise Malformed("has a storage that is not of numbers: save a state dict of tensors")
    dtype = _DTYPES[kind.full]
    if not self._is_count(size) or size * dtype.itemsize > len(self._mapped):
      raise Malformed(f"has no {size!r} {dtype} in its storage {key}: copy it again")
    storage = self.storages.setdefault(key, Storage(dtype, key, size))
    if (storage.dtype, storage.size) != (dtype, size):
      raise Malformed(f"describes its storage {key} in two ways: copy it again")
    return storage

  def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
      raise Malformed("has a tensor without a storage: copy it again")
    if not self._lies_inside(storage, offset, shape, strides):
      raise Malformed(f"has a tensor {reprlib.repr(list(shape))} that does not lie inside its storage"
                      f" {storage.key}: copy it again")
    return Tensor(storage, offset, shape, strides)

  def _lies_inside(self, storage: Storage, offset: Any, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> bool:
    """Whether a view is of its storage's numbers alone, and not of more than the file has bytes (a stride may be 0)."""
    if len(shape) != len(strides) or len(shape) > _MAX_AXES:
      return False
    if not all(map(self._is_count, (offset, *shape, *strides))) or math.prod(shape) > len(self._mapped):
      return False
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    return (last if math.prod(shape) else offset - 1) < storage.size

  def _is_count(self, number: Any) -> bool:
    """Whether it may count bytes or numbers of the file."""
    return type(number) is int and 0 <= number <= len(self._mapped)


def _load_zip(file: BinaryIO, mapped: mmap.mmap, skip_unknown: bool) -> Any:
  """Reads an archive with the objects in `*/data.pkl` and a storage's numbers in `*/data/KEY`, uncompressed."""
  entries: dict[str, zipfile.ZipInfo] = {}
  for entry in zipfile.ZipFile(file).infolist():
    if entries.setdefault(name := entry.filename.partition("/")[2], entry) is not entry:
      raise Malformed(f"has its entry {name} twice: copy it again")

  def find(name: str) -> tuple[int, int]:
    """The first byte of an entry and its end."""
    if entries[name].compress_type != zipfile.ZIP_STORED:
      raise Malformed(f"has its entry {name} compressed: save it with torch.save alone")
    header = entries[name].header_offset  # The entry's own header may be longer than the archive's directory says.
    if not 0 <= header <= len(mapped) - 30:
      raise ValueError(f"its entry {name} is not there")
    start = header + 30 + sum(struct.unpack("<HH", mapped[header + 26:header + 30]))
    return start, start + entries[name].file_size

  content = lambda name: mapped[slice(*find(name))]
  if "byteorder" in entries and content("byteorder") != b"little":
    raise Malformed("is not little-endian: save it again on an ordinary machine")
  pickle = content("data.pkl")
  if zlib.crc32(pickle) != entries["data.pkl"].CRC:
    raise ValueError("its entry data.pkl was altered")
  objects = _Objects(mapped)
  loaded = objects.read(io.BytesIO(pickle), skip_unknown)
  for key, storage in objects.storages.items():
    start, end = find(f"data/{key}")
    if objects.connect(storage, start) != end:
      raise Malformed(f"has no {storage.size} {storage.dtype} in its storage {key}: copy it again")
  return loaded


def _load_sequence(mapped: mmap.mmap, skip_unknown: bool) -> Any:
  """Reads what follows the magic number: the format's version, the machine, the objects, the keys, the storages."""
  objects = _Objects(mapped)
  objects.read(mapped)
  if not objects.read(mapped)["little_endian"]:
    raise Malformed("is not little-endian: save it again on an ordinary machine")
  loaded = objects.read(mapped, skip_unknown)
  keys = objects.read(mapped)
  if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(
      objects.storages):
    raise Malformed("does not list the storages that its tensors are in: copy it again")
  for key in keys:
    storage = objects.storages[key]
    if mapped.read(8) != struct.pack("<q", storage.size):
      raise Malformed(f"has no {storage.size} {storage.dtype} in its storage {key}: copy it again")
    mapped.seek(objects.connect(storage, mapped.tell()))
  return loaded
