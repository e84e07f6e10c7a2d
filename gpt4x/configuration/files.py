"""Gin files by name."""

import io
import os
import pathlib

from gpt4x import storage
from gpt4x.errors import CommandError, nearest

SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "gin_configs"  # Beside this package, installed or not.


def find(name: str, beside: pathlib.Path | None = None) -> pathlib.Path:
  """The gin file `name`: a URL or a path, which may start in the current directory, `beside` or `gin_configs/`.

  `beside` is the folder of a file that includes `name`. A leading ~ is the user's home.
  """
  if storage.is_remote(name):
    if storage.read(storage.path(name)) is None:
      raise CommandError(f"gin file {name} not found: correct the URL")
    return storage.path(name)
  expanded = os.path.expanduser(name)
  folders = [pathlib.Path(), *([beside] if beside else []), SHIPPED]
  for folder in folders:
    try:
      with storage.errors(folder):
        if (folder / expanded).is_file():
          return folder / expanded
    except (OSError, ValueError) as error:  # A folder that may not be searched, or a name that no file can have.
      raise CommandError(f"gin file {name} cannot be read: {error}") from None
  shipped = sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.gin"))
  places = dict.fromkeys(str(folder if storage.is_remote(folder) else folder.absolute()) for folder in folders)
  *first, last = places
  searched = "" if os.path.isabs(expanded) else f" in {', '.join(first)} or {last}"
  raise CommandError(f"gin file {name} not found{searched}{nearest(name, shipped)}")


def read(path: pathlib.Path) -> str:
  try:
    content = storage.read_bytes(path)
    return io.TextIOWrapper(io.BytesIO(content), "utf-8-sig").read()  # Editors may put a byte-order mark.
  except (OSError, UnicodeDecodeError) as error:
    raise CommandError(f"gin file {path} cannot be read: {error}") from None
