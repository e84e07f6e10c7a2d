"""The documents of a (seqio task, split) as memory-mapped tokens: made once by running the task, then read in place.

A store is a folder: `tokens.bin` with all documents one after another, `offsets.npy` with the N + 1 places where N
documents start and end, and `spec.json`. Opening a store reads no tokens.
"""

import array
from collections.abc import Callable, Iterator
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import sys
from typing import Any, BinaryIO, TYPE_CHECKING
import uuid

import numpy as np

from gpt4x.data import data_dir
from gpt4x.data.fingerprint import task_key
from gpt4x.errors import UserError

if TYPE_CHECKING:
  import seqio
  import tensorflow as tf


class TokenStore:
  """A sequence of documents, each a read-only array of tokens in the file.

  Attributes:
    name: the task and split, e.g. "stdlib_bytes/train".
    fingerprint: a hash of the tokens and the documents' ends, whatever source they come from.
    num_tokens: the number of tokens of all documents.
    longest: the number of tokens of the longest document.
  """

  def __init__(self, path: os.PathLike | str):
    path = pathlib.Path(path)
    try:
      spec = json.loads((path / "spec.json").read_text())
      tokens = np.memmap(path / "tokens.bin", spec["dtype"], mode="r")
      offsets = np.load(path / "offsets.npy", mmap_mode="r")
      if len(tokens) != spec["tokens"] or len(offsets) != spec["documents"] + 1:
        raise ValueError("a file has the wrong length")
    except (OSError, ValueError, LookupError, TypeError) as error:
      raise UserError(f"token store {path} is damaged ({error}): delete it, and the next run makes it again") from error
    self.name, self.fingerprint, self._path = spec["name"], spec["content"], path
    self.num_tokens, self.longest = spec["tokens"], spec["longest"]
    self._tokens, self._offsets = _at_random(tokens), _at_random(offsets)

  def __len__(self) -> int:
    return len(self._offsets) - 1

  def __getitem__(self, index: int) -> np.ndarray:
    if not 0 <= index < len(self):
      raise IndexError(f"document {index} of {len(self)}")
    return self._tokens[self._offsets[index]:self._offsets[index + 1]]

  def lengths(self) -> np.ndarray:
    """The number of tokens of each document; reads all offsets."""
    return np.diff(np.load(self._path / "offsets.npy"))


def _at_random(mapped: np.memmap) -> np.ndarray:
  """A plain array over the same pages, since its slices are cheaper; the system reads no other documents ahead."""
  if hasattr(mmap, "MADV_RANDOM"):
    getattr(mapped, "_mmap").madvise(mmap.MADV_RANDOM)  # noqa: B009  numpy's types leave the attribute out.
  return mapped.view(np.ndarray)


def open_or_build(task: "seqio.Task", split: str) -> TokenStore:
  """The store of a task's split, made now unless there is one under the same key."""
  folder = re.sub(r"[^\w.-]", "_", f"{task.name}-{split}-{task_key(task, split)}")
  path = data_dir() / "tokens" / folder
  if not path.exists():
    try:
      _build(task, split, path)
    except OSError as error:
      raise UserError(f"cannot write {path} ({error.strerror}): make room, or set GPT4X_DATA_DIR elsewhere") from error
  return TokenStore(path)


def _build(task: "seqio.Task", split: str, path: pathlib.Path) -> None:
  """Writes beside `path` and renames at the end: a store is whole or absent, even where two build it or one dies."""
  print(f"tokenizing {task.name}/{split} into {path}", file=sys.stderr)  # Takes minutes a gigabyte.
  # A folder of `tempfile` could not be read by other users.
  temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.building")
  temporary.mkdir(parents=True)
  try:
    spec = {"name": f"{task.name}/{split}", **_write(task, split, temporary)}
    with _on_disk(temporary / "spec.json") as file:
      file.write(json.dumps(spec, indent=2).encode())
    try:
      temporary.rename(path)
    except OSError:
      if not path.exists():  # If it does, another process was first, with the same tokens.
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _write(task: "seqio.Task", split: str, path: pathlib.Path) -> dict[str, Any]:
  """Writes tokens and offsets into the folder `path`; returns their part of the spec."""
  vocab_size = task.output_features["targets"].vocabulary.vocab_size
  dtype = np.min_scalar_type(vocab_size - 1)
  offsets, longest, content = array.array("q", [0]), 0, hashlib.sha256()
  with _on_disk(path / "tokens.bin") as file:
    for example in examples(task, split, shuffle=False, num_epochs=1, try_in_mem_cache=False):
      tokens = example["targets"]
      if not tokens.size:
        continue
      if tokens.min() < 0 or tokens.max() >= vocab_size:
        outside = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
        raise UserError(f"task {task.name}, split {split}: token {outside} is outside its vocabulary of {vocab_size}:"
                        " check the task's preprocessors and vocabulary")
      data = tokens.astype(dtype).tobytes()
      file.write(data)
      content.update(data)
      offsets.append(offsets[-1] + tokens.size)
      longest = max(longest, tokens.size)
  if len(offsets) == 1:
    raise empty(task, split)
  with _on_disk(path / "offsets.npy") as file:
    np.save(file, np.frombuffer(offsets, np.int64))
  content.update(offsets)
  return {"content": content.hexdigest()[:16], "dtype": dtype.name, "documents": len(offsets) - 1,
          "tokens": offsets[-1], "longest": longest}


def empty(task: "seqio.Task | seqio.Mixture", split: str) -> UserError:
  return UserError(f"task {task.name}, split {split}: the corpus is empty: check the task's source and preprocessors")


@contextlib.contextmanager
def _on_disk(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file to be written, and puts it on the disk before the rename that makes it count."""
  with open(path, "wb", buffering=1 << 20) as file:
    yield file
    file.flush()
    os.fsync(file.fileno())


def examples(task: "seqio.Task | seqio.Mixture", split: str,
             convert: "Callable[[tf.data.Dataset], tf.data.Dataset]" = lambda dataset: dataset, **options: Any
             ) -> Iterator[dict[str, np.ndarray]]:
  """Runs `task.get_dataset(split=split, **options)`; an error of seqio, TensorFlow or the disk becomes a UserError."""
  import tensorflow as tf

  with contextlib.suppress(RuntimeError):  # Already initialized.
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take all the memory that JAX needs.
  # Looked up before the loop: when Python ends and closes this generator, TensorFlow is gone.
  errors = ValueError, OSError, tf.errors.OpError
  try:
    yield from convert(task.get_dataset(split=split, **options)).as_numpy_iterator()
  except errors as error:
    # TensorFlow puts a node's name before a Python error and the traceback behind; autograph's traceback comes first.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    message = re.sub(r"^\{\{.*?\}\} ", "", lines[0 if isinstance(error, tf.errors.OpError) else -1])
    raise UserError(f"task {task.name}, split {split}: {message.rpartition('UserError: ')[2]}") from error
