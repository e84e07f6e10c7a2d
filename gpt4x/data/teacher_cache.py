"""What a teacher says of each token of a corpus, made once by `gpt4x teach` and read in place.

A cache is a folder. `spec.json`, which is written last, names the teacher and, by task and split, the tokens that it
was given. For each split, `ids.bin` has a row of K ids for every token of its store, in the store's order, the
likeliest first, and `log_probs.bin` K + 1 log-probabilities in float16, the last that of all other ids together. A row
belongs to a token, not to a batch: shuffling, repeating, other rates and other segments read the same.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import threading
from typing import Any

import numpy as np

from gpt4x import storage
from gpt4x.data import prepared
from gpt4x.data.fingerprint import fingerprint
from gpt4x.data.token_store import at_random, read_gently, TokenStore
from gpt4x.errors import UserError

IDS, LOG_PROBS = "decoder_teacher_ids", "decoder_teacher_log_probs"
_FILES = {IDS: "ids.bin", LOG_PROBS: "log_probs.bin"}
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Who says it: a checkpoint by its place and the checksum of its parameters, and how it was asked.

  Attributes:
    directory, step, checksum: as `checkpoints/frozen_models.py` refers to a model.
    vocab_size: V, the ids that its logits are of.
    top_k: K.
    temperature: what its logits are divided by.
    window: how many of a document's latest tokens it sees, the one before the target included.
  """

  directory: str
  step: int
  checksum: str
  vocab_size: int
  top_k: int
  temperature: float
  window: int

  @property
  def files(self) -> dict[str, tuple[int, np.dtype]]:
    """The numbers that each file has for a token, and their type."""
    return {IDS: (self.top_k, np.min_scalar_type(self.vocab_size - 1)), LOG_PROBS: (self.top_k + 1, np.dtype("f2"))}

  @property
  def bytes_per_token(self) -> int:
    return sum(count * dtype.itemsize for count, dtype in self.files.values())


@dataclasses.dataclass(frozen=True)
class TeacherCache:
  """A cache in a directory, opened when it is first asked for; `parameter` is gin's name for it, for messages."""

  parameter: str
  directory: str

  @functools.cached_property
  def _spec(self) -> dict[str, Any]:
    if storage.is_remote(self.directory):
      raise self.error("is in a bucket, and its rows are read in place: copy it to a folder of this machine")
    if not (spec := spec_of(self.directory)):
      raise self.error(f"has no {prepared.SPEC}: make it by gpt4x teach --model_dir=TEACHER --output={self.directory}")
    return spec

  @functools.cached_property
  def teacher(self) -> Teacher:
    try:
      if self._spec["version"] != _VERSION:
        raise ValueError(f"version {self._spec['version']!r}, and this gpt4x reads {_VERSION}")
      return Teacher(**self._spec["teacher"])
    except (LookupError, TypeError, ValueError) as error:
      raise self.damaged(f"{prepared.SPEC}: {error}") from error

  @property
  def features(self) -> dict[str, tuple[tuple[int, ...], Any]]:
    """As `stream.Beside` has them; ids are as wide as those of tokens."""
    types = {IDS: np.int32, LOG_PROBS: np.float16}
    return {name: ((count,), types[name]) for name, (count, _) in self.teacher.files.items()}

  def of(self, store: TokenStore, needed: bool) -> "Rows | None":
    """The rows of a split's tokens; None if there are none and none are `needed`.

    Raises:
      UserError: if there are none that are needed, or they are of other tokens.
    """
    teacher, splits = self.teacher, self._spec.get("splits", {})
    if store.name not in splits:
      if needed:
        raise self.error(f"says nothing of {store.name}, only of {', '.join(sorted(splits))}: make it anew by gpt4x"
                         " teach with this task and --split")
      return None
    try:
      content, folder, sha256 = (str(splits[store.name][name]) for name in ("content", "folder", "sha256"))
    except (LookupError, TypeError) as error:
      raise self.damaged(f"{prepared.SPEC}: {store.name}: {error}") from error
    if content != store.fingerprint:
      raise self.error(f"was made of other tokens of {store.name} ({content}, now {store.fingerprint}), by"
                       f" {teacher.directory} at step {teacher.step}: make it anew by gpt4x teach")
    return Rows(self, store, storage.path(self.directory) / folder, sha256)

  def error(self, why: str) -> UserError:
    return UserError(f"{self.parameter} = {self.directory!r} {why}")

  def damaged(self, reason: str) -> UserError:
    return self.error(f"is damaged ({' '.join(reason.split())}): copy it again, or make it anew by gpt4x teach")


class Rows:
  """What a teacher says of the tokens of a store; see `stream.Beside`. A thread compares the files with their hash."""

  def __init__(self, cache: TeacherCache, store: TokenStore, folder: pathlib.Path, sha256: str):
    self._cache, self._store, self._sha256 = cache, store, sha256
    self.features = cache.features
    self.fingerprint = fingerprint([sha256, dataclasses.asdict(cache.teacher)["temperature"]])
    self._arrays = dict[str, np.ndarray]()
    self._opened = []
    for name, (count, dtype) in cache.teacher.files.items():
      path, size = folder / _FILES[name], store.num_tokens * count * dtype.itemsize
      try:
        if path.stat().st_size != size:
          raise cache.damaged(f"{path} has {path.stat().st_size:,} bytes in the place of {size:,}")
        self._arrays[name] = at_random(np.memmap(path, dtype, "r", shape=(store.num_tokens, count)))
        self._opened.append(open(path, "rb"))  # noqa: SIM115  As long as this is.
      except OSError as error:
        raise cache.damaged(f"{path}: {error.strerror}") from error
    self._sizes = [os.fstat(file.fileno()).st_size for file in self._opened]
    self._damage: UserError | None = None
    self._check = threading.Thread(target=self._compare_with_hash, name="teacher cache check", daemon=True)
    self._check.start()

  def rows(self, document: int) -> dict[str, np.ndarray]:
    place = self._store.place(document)
    return {name: values[place] for name, values in self._arrays.items()}

  def check(self, patience: float | None = None) -> None:
    """Raises a UserError if a file is known to be damaged; waits for the hash so many seconds, None for all."""
    self._check.join(patience)
    if [os.fstat(file.fileno()).st_size for file in self._opened] != self._sizes:
      raise self._cache.damaged("a file was cut off or written to while it was in use")
    if self._damage:
      raise self._damage

  def _compare_with_hash(self) -> None:
    try:
      if _sha256(self._opened) != self._sha256:
        self._damage = self._cache.damaged("its content is not what its hash says")
    except (OSError, ValueError) as error:
      self._damage = self._cache.damaged(str(error))


def spec_of(directory: str) -> dict[str, Any]:
  """What a cache says of itself; empty if there is none."""
  return prepared.read_json(storage.path(directory) / prepared.SPEC)


# Making one.


class Writer:
  """Writes a cache into a folder, split by split; the whole counts from `finish` on."""

  def __init__(self, directory: str, teacher: Teacher):
    self._folder, self.teacher = storage.path(directory), teacher
    self._splits = dict[str, Any]()

  @contextlib.contextmanager
  def split(self, store: TokenStore) -> Iterator[Mapping[str, np.ndarray]]:
    """Arrays to be filled with the rows of a store's tokens, by feature."""
    name = store.name.replace("/", "-")
    folder = self._folder / name
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict[str, np.memmap]()
    for feature, (count, dtype) in self.teacher.files.items():
      with open(folder / _FILES[feature], "wb") as file:
        size = store.num_tokens * count * dtype.itemsize
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # So that a full disk is an error now, and no signal later.
          os.posix_fallocate(file.fileno(), 0, size)
      arrays[feature] = np.memmap(folder / _FILES[feature], dtype, "r+", shape=(store.num_tokens, count))
    yield arrays
    for array in arrays.values():
      array.flush()
    with contextlib.ExitStack() as stack:
      files = [stack.enter_context(open(folder / _FILES[feature], "rb")) for feature in arrays]
      self._splits[store.name] = {"folder": name, "content": store.fingerprint, "tokens": store.num_tokens,
                                  "documents": len(store), "sha256": _sha256(files)}

  def finish(self) -> None:
    spec = {"version": _VERSION, "teacher": dataclasses.asdict(self.teacher), "splits": self._splits}
    storage.write(self._folder / prepared.SPEC, json.dumps(spec, indent=2).encode())


def _sha256(files: list[Any]) -> str:
  content = hashlib.sha256()
  for file in files:
    for data in read_gently(file, 0):
      content.update(data)
  return content.hexdigest()
