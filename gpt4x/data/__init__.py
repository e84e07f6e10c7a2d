"""Corpora, vocabularies and batches, and the folder where prepared data is kept."""

import os
import pathlib
import stat
import urllib.parse

from gpt4x import storage
from gpt4x.errors import UserError


def shared_dir() -> pathlib.Path | None:
  """Returns `$GPT4X_DATA_DIR` if that is a folder in a bucket."""
  given = os.environ.get("GPT4X_DATA_DIR", "")
  return storage.path(given.rstrip("/")) if storage.is_remote(given) else None


def data_dir() -> pathlib.Path:
  """Returns `$GPT4X_DATA_DIR`, or `~/.cache/gpt4x` where that is unset or empty; read afresh at each call.

  With a `shared_dir`, it is the folder of this machine's copies of what is there: tokens are read in place.
  """
  given = os.environ.get("GPT4X_DATA_DIR") or "~/.cache/gpt4x"
  if storage.is_remote(given):
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = os.path.join(cache, "gpt4x", "copies", urllib.parse.quote(given.rstrip("/"), safe=""))
  try:
    return pathlib.Path(given).expanduser().absolute()
  except RuntimeError as error:  # The user has no entry in the system's list, as in many containers, and no HOME.
    raise UserError(f"cannot tell where {given} is, since user {os.getuid()} has no home directory: set"
                    f" {variable()} to a folder that can be written") from error


def variable() -> str:
  """The variable of the environment that says where `data_dir()` is."""
  return "XDG_CACHE_HOME" if shared_dir() else "GPT4X_DATA_DIR"


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder of prepared data. `data_dir()` is made private; what is made in it gets its mode (`share`)."""
  root = data_dir()
  root.mkdir(mode=0o700, parents=True, exist_ok=True)
  for folder in reversed([path, *path.parents]):
    if root in folder.parents and not folder.is_dir():
      folder.mkdir(exist_ok=True)
      share(folder)


def share(path: pathlib.Path) -> None:
  """Gives a new file or folder in `data_dir()` the mode of that, so that who may read one may read the other."""
  mode = stat.S_IMODE(data_dir().stat().st_mode)
  path.chmod(mode if path.is_dir() else mode & 0o666)
