"""What lies between the steps: documents as packed JSON lines, and numbers in groups that are read one at a time."""

import array
import base64
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import io
import json
import pathlib
import struct
from typing import Any, BinaryIO

import numpy as np

from gpt4x import storage
from gpt4x.preparation.document import Document

GROUPS = 4096  # Of keys, by their first bits.
ENTRY = np.dtype([("key", "<u8"), ("row", "<u4"), ("place", "<u4")])  # What a document of a shard has at a place.
# A document of a shard, and another document that it is like: of which shard, which one, where in it, and how much.
MATCH = np.dtype([("row", "<u4"), ("place", "<u4"), ("shard", "<u4"), ("other", "<u4"), ("other_place", "<u4"),
                  ("value", "<f4")])


@contextlib.contextmanager
def packed(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write that is packed by zstd and takes its place whole at the end."""
  import pyarrow
  with (storage.new_file(path) as unfinished, pyarrow.OSFile(str(unfinished), "wb") as file,
        pyarrow.CompressedOutputStream(file, "zstd") as stream):
    buffered = io.BufferedWriter(_Raw(stream), 1 << 20)
    yield buffered
    buffered.flush()


class _Raw(io.RawIOBase):
  """What a BufferedWriter writes to."""

  def __init__(self, stream: Any):
    self._stream = stream

  def writable(self) -> bool:
    return True

  def write(self, data: Any) -> int:
    self._stream.write(data)
    return len(data)


def unpacked(path: pathlib.Path) -> BinaryIO:
  """A packed file to read."""
  import pyarrow
  return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(path.open("rb")), "zstd"), 1 << 20)


def line(record: Any) -> bytes:
  """A record of JSON as a line."""
  text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
  return text.encode(errors="replace") + b"\n"  # Half a surrogate pair is no text.


def document_line(document: Document) -> bytes:
  """A document between two steps."""
  return line([document.name, document.text, base64.b85encode(document.content).decode(), dict(document.fields),
               document.folder])


def documents(path: pathlib.Path) -> Iterator[Document]:
  """The documents of a shard between two steps."""
  with unpacked(path) as file:
    for one in file:
      name, text, content, fields, folder = json.loads(one)
      yield Document(name, text, base64.b85decode(content), fields, folder)


class Names:
  """The names of a shard's documents, of which few are read."""

  def __init__(self, path: pathlib.Path):
    self._groups = Groups(path)

  def __getitem__(self, row: int) -> str:
    return self._groups.read(row, row + 1, np.dtype("u1")).tobytes().decode()


def write_groups(path: pathlib.Path, groups: Iterable[np.ndarray]) -> None:
  """Arrays of one kind, one after another; where each ends stands behind them."""
  ends = array.array("Q", [0])
  with storage.new_file(path) as unfinished, open(unfinished, "wb") as file:
    for group in groups:
      file.write(np.ascontiguousarray(group).data)
      ends.append(ends[-1] + group.nbytes)
    file.write(ends.tobytes() + struct.pack("<Q", len(ends)))


def write_entries(path: pathlib.Path, entries: np.ndarray) -> None:
  """ENTRYs by the first bits of their keys, in each group in the order of keys and then of documents and places."""
  entries = entries[np.argsort(entries["key"], kind="stable")]
  starts = np.searchsorted(entries["key"], np.arange(GROUPS, dtype=np.uint64) << np.uint64(64 - 12))
  write_array(path, entries, [*starts, len(entries)])


def write_array(path: pathlib.Path, array: np.ndarray, ends: Sequence[int]) -> None:
  """Groups of an array, from one of `ends` to the next, as `write_groups` writes them."""
  with storage.new_file(path) as unfinished, open(unfinished, "wb") as file:
    file.write(np.ascontiguousarray(array).data)
    file.write((np.array(ends, "<u8") * array.itemsize).tobytes() + struct.pack("<Q", len(ends)))


class Groups:
  """Arrays of a file, which are read where they are needed."""

  def __init__(self, path: pathlib.Path):
    self._path, size = path, path.stat().st_size
    with storage.errors(path), path.open("rb") as file:
      file.seek(size - 8)
      count, = struct.unpack("<Q", file.read(8))
      file.seek(size - 8 - 8 * count)
      self._ends = np.frombuffer(file.read(8 * count), "<u8").astype(np.int64)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def sizes(self, dtype: np.dtype) -> np.ndarray:
    """How long each group is."""
    return np.diff(self._ends) // dtype.itemsize

  def read(self, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
    """The groups from `start` to before `stop`, as one array."""
    first, last = self._ends[start], self._ends[stop]
    with storage.errors(self._path), self._path.open("rb") as file:
      file.seek(int(first))
      return np.frombuffer(file.read(int(last - first)), dtype)
