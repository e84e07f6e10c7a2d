"""Codes of media files, made once: threads read the files while the codec encodes what was read.

`data_dir()/media/MEDIUM-FINGERPRINT/` has a folder for each chunk of files, called by a hash of their names, sizes and
times. A process that is killed leaves the chunks that are whole, and the next makes the others. Another codec, or other
settings, has a folder of its own. The codes stay on this machine; the token stores made of them may lie in a bucket.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import itertools
import json
import os
import pathlib
import threading
import time
from typing import Any, Protocol
import zipfile

import numpy as np

from gpt4x import storage
from gpt4x.data import data_dir, make_folder, prepared, share, variable
from gpt4x.data.fingerprint import fingerprint
from gpt4x.data.objects import Stat
from gpt4x.data.task_examples import say_once
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media.files.content import Unavailable

_VERSION = 1  # Raise it whenever the files, or what they hold of a medium, change.
_THREADS = min(8, (os.cpu_count() or 1) + 1)
_TOGETHER = 64 << 20  # Bytes of media that are encoded at once.
_FILE = "codes.npz"
_ENCODING = threading.Lock()  # Codecs run one after another; files of another chunk are read meanwhile.


class Encoder(Protocol):
  """What counts of a codec here."""

  @property
  def fingerprint(self) -> str: ...
  def encode_all(self, media: Sequence[Any]) -> list[np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How files of a medium become codes.

  Attributes:
    medium: one of MEDIA.
    encoder: a codec.
    settings: whatever else decides the codes of a file, as JSON.
    read: gives what the encoder takes, of a path; a UserError for a file that cannot be used.
  """
  medium: str
  encoder: Encoder
  settings: Mapping[str, Any]
  read: Callable[[str], Any]

  @property
  def folder(self) -> pathlib.Path:
    known = fingerprint([_VERSION, self.encoder.fingerprint, dict(self.settings)])
    return data_dir() / "media" / f"{self.medium}-{known}"


def of_files(files: Sequence[Stat], recipe: Recipe) -> list[np.ndarray | UserError]:
  """The codes of each file of a chunk, or what is wrong with it."""
  folder = recipe.folder
  path = folder / fingerprint([[_absolute(file), *version] for file, *version in files])
  found = _load(path, len(files))
  if found is None:
    with _ENCODING:  # Two threads would say it twice.
      say_once(f"encoding {recipe.medium} files into {folder}")
    found = list(_encoded([file for file, *_ in files], recipe))
    if not any(isinstance(one, Unavailable) for one in found):
      try:
        _describe(folder, recipe)
        _save(path, found)
      except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room, or set {variable()} elsewhere") from error
  prepared.note_use(folder)
  return found


def _absolute(path: str) -> str:
  return path if storage.is_remote(path) else os.path.abspath(path)


def _encoded(paths: Sequence[str], recipe: Recipe) -> Iterator[np.ndarray | UserError]:
  """In the order of the paths. Few files wait to be encoded, for a video may be large."""
  with futures.ThreadPoolExecutor(_THREADS, "media") as pool:
    waiting, ahead = list[_Read](), iter(paths)
    reading = collections.deque(pool.submit(_read, path, recipe) for path in itertools.islice(ahead, 2 * _THREADS))
    while reading:
      waiting.append(reading.popleft().result())
      reading.extend(pool.submit(_read, path, recipe) for path in itertools.islice(ahead, 1))
      if not reading or sum(_size(medium) for _, medium in waiting) > _TOGETHER:
        yield from _encode(waiting, recipe)
        waiting = []


_Read = tuple[str, Any]  # A path, and what was read there, a medium or a UserError.


def _read(path: str, recipe: Recipe) -> _Read:
  try:
    return path, recipe.read(path)
  except UserError as error:
    return path, error


def _size(medium: Any) -> int:
  return sum(value.nbytes for value in getattr(medium, "__dict__", {}).values() if isinstance(value, np.ndarray))


def _encode(read: Sequence[_Read], recipe: Recipe) -> list[np.ndarray | UserError]:
  """Encodes all that are media, together; if the codec does not take one of them, each by itself."""
  good = [(path, medium) for path, medium in read if not isinstance(medium, UserError)]
  with _ENCODING:
    try:
      codes: list[Any] = recipe.encoder.encode_all([medium for _, medium in good]) if good else []
    except UserError:
      codes = [_encode_one(path, medium, recipe) for path, medium in good]
  in_order = iter(codes)
  return [medium if isinstance(medium, UserError) else next(in_order) for _, medium in read]


def _encode_one(path: str, medium: Any, recipe: Recipe) -> np.ndarray | UserError:
  try:
    return recipe.encoder.encode_all([medium])[0]
  except UserError as error:
    return UserError(f"{shown(path)}: {error}")


def _save(path: pathlib.Path, codes: Sequence[np.ndarray | UserError]) -> None:
  shapes, errors = np.full((len(codes), 4), -1, np.int32), [""] * len(codes)
  for i, one in enumerate(codes):
    if isinstance(one, UserError):
      errors[i], shapes[i, 0] = str(one), 0
    else:
      shapes[i, :one.ndim] = one.shape
  flat = np.concatenate([np.zeros(0, np.int32), *(one.ravel() for one in codes if not isinstance(one, UserError))])
  narrow = flat.astype(np.min_scalar_type(int(flat.max(initial=0))))
  with prepared.unfinished(path) as folder, prepared.on_disk(folder / _FILE) as file:
    np.savez(file, codes=narrow, shapes=shapes, errors=np.array(errors, str))


def _load(path: pathlib.Path, count: int) -> list[np.ndarray | UserError] | None:
  """The codes of a chunk; None if there are none, or damaged ones, which are made again."""
  try:
    with np.load(path / _FILE) as found:  # A zip file, with a checksum of each array.
      flat, shapes, errors = found["codes"].astype(np.int32), found["shapes"], found["errors"]
    ends = np.cumsum([np.prod(shape[shape >= 0]) for shape in shapes], dtype=int)
    parts = np.split(flat, ends[:-1])
    if not len(shapes) == len(errors) == count or ends[-1] != len(flat):
      raise ValueError("they are of other files")
    return [UserError(error) if error else part.reshape(shape[shape >= 0])
            for error, part, shape in zip(errors.tolist(), parts, shapes)]
  except FileNotFoundError:
    return None
  except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
    prepared.remove_folder(path)
    return None


def _describe(folder: pathlib.Path, recipe: Recipe) -> None:
  """Writes what the folder holds, for `gpt4x cache`."""
  if not (folder / prepared.SPEC).exists():
    make_folder(folder)
    spec = {"name": f"{recipe.medium} files, by codec {recipe.encoder.fingerprint}", "made": time.time()}
    temporary = folder / f"{prepared.SPEC}.{os.getpid()}.{threading.get_ident()}"
    temporary.write_text(json.dumps(spec))
    share(temporary)
    temporary.replace(folder / prepared.SPEC)
