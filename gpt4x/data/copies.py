"""This machine's copies of token stores that lie in a bucket: tokens are read in place, so they have to be here."""

import hashlib
import os
import pathlib
import sys

import numpy as np

from gpt4x import storage
from gpt4x.data import changes, objects, prepared, shared
from gpt4x.errors import UserError

_TRIES = 3  # A store may be removed, and made again, while it is copied.


def fetch(path: pathlib.Path) -> None:
  """Copies the store of this name from the bucket; takes away a copy of what the bucket has not, or has otherwise."""
  if (there := shared.place(path)) is None:
    return
  for _ in range(_TRIES):
    record = storage.read(there / prepared.SPEC)
    if path.exists() and (record is None or record != _record(path)):
      prepared.remove_folder(path)
    if record is None or path.exists():
      return
    print(f"copying {there} to {path}", file=sys.stderr)
    try:
      made = shared.made(there)
      with prepared.unfinished(path) as folder:
        _copy(there, record, folder)
      os.utime(path, (made, made))
      return
    except FileNotFoundError as error:
      missing = error
  raise _damaged(there, "an object is missing") from missing


def publish(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Uploads a store that is whole, but has no name yet: what is here under a name is in the bucket too."""
  if (there := shared.place(path)) is not None:
    shared.publish(folder, [file for file in (prepared.TOKENS, prepared.OFFSETS, changes.FILES)
                            if (folder / file).exists()], there)


def _record(path: pathlib.Path) -> bytes | None:
  try:
    return (path / prepared.SPEC).read_bytes()
  except OSError:
    return None


def _copy(there: pathlib.Path, record: bytes, folder: pathlib.Path) -> None:
  """Copies the files and compares them with the hash in the record."""
  if (name := shared.content_of(record)) is None:
    raise _damaged(there, f"its {prepared.SPEC} cannot be read")
  content = hashlib.sha256()
  for file in (prepared.TOKENS, prepared.OFFSETS):
    with prepared.on_disk(folder / file) as opened:
      for data in objects.content(str(there / name / file)):
        opened.write(data)
        if file == prepared.TOKENS:
          content.update(data)
  try:
    content.update(memoryview(np.load(folder / prepared.OFFSETS, mmap_mode="r")))
  except (ValueError, EOFError) as error:
    raise _damaged(there, f"{prepared.OFFSETS}: {error}") from error
  if content.hexdigest()[:16] != name:
    raise _damaged(there, "its content is not what its hash says")
  with prepared.on_disk(folder / prepared.SPEC) as opened:
    opened.write(record)


def _damaged(there: pathlib.Path, reason: str) -> UserError:
  return UserError(f"token store {there} is damaged ({' '.join(reason.split())}): delete it ({prepared.remedy(there)}),"
                   " and the next run makes it again")
