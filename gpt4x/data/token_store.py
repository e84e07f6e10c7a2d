"""The documents of a (seqio task, split) as memory-mapped tokens, read in place.

A store is a folder: `tokens.bin` with all documents one after another, `offsets.npy` with the N + 1 places where N
documents start and end, and `spec.json`. Opening a store reads no tokens; a thread then compares them with their hash.
"""

from collections.abc import Iterator
import hashlib
import json
import mmap
import os
import pathlib
import threading
import time
from typing import BinaryIO

import numpy as np

from gpt4x.data import prepared, shared, variable
from gpt4x.errors import UserError

_CHUNK = 1 << 20  # Bytes that are checked at a time.
_FULL_SPEED = 1 << 30  # Bytes; the check of what is behind leaves half of the disk's time to the batches.


class TokenStore:
  """A sequence of documents, each a read-only array of tokens in the file.

  Attributes:
    name: the task and split, e.g. "stdlib_bytes/train".
    fingerprint: a hash of the tokens and the documents' ends, whatever source they come from.
    num_tokens: the number of tokens of all documents.
    longest: the number of tokens of the longest document.
    num_ids: the size of the vocabulary that the tokens are of.
    start_id: the input before a document's first token.
    path: the folder.
  """

  def __init__(self, path: os.PathLike | str, num_ids: int, start_id: int = 0):
    self.path, self.num_ids, self.start_id = pathlib.Path(path), num_ids, start_id
    try:
      spec = json.loads((self.path / prepared.SPEC).read_text())
      tokens = np.memmap(self.path / prepared.TOKENS, spec["dtype"], mode="r")
      offsets = np.load(self.path / prepared.OFFSETS, mmap_mode="r")
      # Open as long as the store is, to see whether they are cut off; the system closes them with it.
      self._files = [open(self.path / name, "rb") for name in (prepared.TOKENS, prepared.OFFSETS)]  # noqa: SIM115
      self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
      found = len(tokens), len(offsets), self._sizes[0]
      if found != (spec["tokens"], spec["documents"] + 1, spec["tokens"] * tokens.itemsize):
        raise ValueError("a file has the wrong length")
      if (tokens.dtype, offsets.dtype) != (np.min_scalar_type(num_ids - 1), np.int64):
        raise ValueError("a file has numbers of another type")
      self.name, self.fingerprint = str(spec["name"]), str(spec["content"])
      self.num_tokens, self.longest = int(spec["tokens"]), int(spec["longest"])
    except PermissionError as error:
      raise UserError(f"token store {self.path} cannot be read ({error.strerror}): change its permissions, or set"
                      f" {variable()} elsewhere") from error
    except Exception as error:  # NumPy raises many kinds at a damaged header.  pylint: disable=broad-exception-caught
      raise self.damaged(" ".join(str(error).split()) or type(error).__name__) from error
    self._header = offsets.offset  # Where the numbers begin in the file.
    self._tokens, self._offsets = at_random(tokens), at_random(offsets)
    self._damage: UserError | None = None
    self._check = threading.Thread(target=self._compare_with_hash, name="token store check", daemon=True)
    self._check.start()

  def __len__(self) -> int:
    return len(self._offsets) - 1

  def __getitem__(self, index: int) -> np.ndarray:
    return self._tokens[self.place(index)]

  def place(self, index: int) -> slice:
    """Where a document's tokens lie among those of all documents."""
    if not 0 <= index < len(self):
      raise IndexError(f"document {index} of {len(self)}")
    start, stop = self._offsets[index:index + 2].tolist()
    if not 0 <= start < stop <= self.num_tokens:
      raise self.damaged(f"document {index} goes from {start} to {stop}")
    return slice(start, stop)

  def lengths(self) -> np.ndarray:
    """The number of tokens of each document; reads all offsets."""
    lengths = np.diff(np.load(self.path / prepared.OFFSETS))
    if lengths.min() < 1 or lengths.sum() != self.num_tokens or lengths.max() != self.longest:
      raise self.damaged("the documents' ends are out of order")
    return lengths

  def check(self, patience: float | None = None) -> None:
    """Raises a UserError if the store is known to be damaged; waits for the hash so many seconds, None for all."""
    self._check.join(patience)
    for file, size in zip(self._files, self._sizes):
      if os.fstat(file.fileno()).st_size != size:  # To touch pages that are gone would kill the process.
        raise self.damaged("a file was cut off or written to while it was in use")
    if self._damage:
      raise self._damage

  def _compare_with_hash(self) -> None:
    """Reads the files, since the pages of the memory map are not to be read ahead."""
    content, last, longest = hashlib.sha256(), 0, 0
    try:
      for data in read_gently(self._files[0], 0):
        content.update(data)
      for data in read_gently(self._files[1], self._header):
        content.update(data)
        ends = np.concatenate([[last], np.frombuffer(data, np.int64)])
        last, longest = ends[-1], max(longest, np.diff(ends).max())
    except (OSError, ValueError) as error:
      self._damage = self.damaged(str(error))
    else:
      if (content.hexdigest()[:16], longest) != (self.fingerprint, self.longest):
        self._damage = self.damaged("its content is not what its hash says")

  def damaged(self, reason: str) -> UserError:
    """The error for a store that does not hold what was written."""
    copy = shared.place(self.path) is not None
    remedy, does = (f"rm -r '{self.path}'", "copies") if copy else (prepared.remedy(self.path), "makes")
    return UserError(f"token store {self.path} is damaged ({reason}): delete it ({remedy}), and the next run {does} it"
                     " again")


def read_gently(file: BinaryIO, start: int) -> Iterator[bytes]:
  """The bytes of a file; those of a large one slowly."""
  begin = time.monotonic()
  while data := os.pread(file.fileno(), _CHUNK, start):
    yield data
    start += len(data)
    if start > _FULL_SPEED:
      time.sleep(time.monotonic() - begin)
    begin = time.monotonic()


def at_random(mapped: np.memmap) -> np.ndarray:
  """A plain array over the same pages, since its slices are cheaper; the system reads no other documents ahead."""
  if hasattr(mmap, "MADV_RANDOM"):
    getattr(mapped, "_mmap").madvise(mmap.MADV_RANDOM)  # noqa: B009  numpy's types leave the attribute out.
  return mapped.view(np.ndarray)
