"""Corpora, vocabularies and batches, and the folder where prepared data is kept."""

import os
import pathlib
import stat

from gpt4x.errors import UserError


def data_dir() -> pathlib.Path:
  """Returns `$GPT4X_DATA_DIR`, or `~/.cache/gpt4x` where that is unset or empty; read afresh at each call."""
  given = os.environ.get("GPT4X_DATA_DIR") or "~/.cache/gpt4x"
  try:
    return pathlib.Path(given).expanduser().absolute()
  except RuntimeError as error:  # The user has no entry in the system's list, as in many containers, and no HOME.
    raise UserError(f"cannot tell where {given} is, since user {os.getuid()} has no home directory: set GPT4X_DATA_DIR"
                    " to a folder that can be written") from error


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
