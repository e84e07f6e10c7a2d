"""Which modules a saved configuration may import: a model directory may come from anybody, and an import runs code.

What ships with gpt4x is allowed, and what this process has imported already. Anything else has to be allowed by its
user, by the name of its top-level module; that is remembered, with the file that the name stands for, outside of any
model directory.
"""

from collections.abc import Iterable
import contextlib
import importlib.util
import json
import os
import pathlib
import sys

from gpt4x import storage
from gpt4x.errors import CommandError


def check(module: str) -> None:
  """Raises CommandError unless a saved configuration may import `module`."""
  top = module.partition(".")[0]
  if top == "gpt4x" or module in sys.modules:
    return
  place = _place(top)
  if place is not None and place not in _remembered().get(top, ()):
    raise CommandError(f"import {module} would run {place}, which is no part of gpt4x: if you trust that code, add"
                       f" --trust={top}, which is remembered")


def allow(modules: Iterable[str]) -> None:
  """Remembers that the user trusts modules, each as the file that its name stands for now."""
  for module in modules:
    top = module.partition(".")[0]
    place, remembered = _place(top), _remembered()
    if place is None:
      raise CommandError(f"--trust={module}: there is no module {top}: start from the folder that holds it, or install"
                         " it")
    if place in remembered.get(top, ()) or top in ("gpt4x", *sys.builtin_module_names):
      continue
    remembered[top] = [*remembered.get(top, ()), place]
    _this_process.setdefault(top, []).append(place)
    if path := _path():
      with contextlib.suppress(OSError):  # The flag is needed again then.
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage.write(path, (json.dumps(remembered, indent=2) + "\n").encode())


_this_process: dict[str, list[str]] = {}


def _path() -> pathlib.Path | None:
  """Where it is remembered; None for a user without a home, whose current directory must not decide."""
  home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
  return pathlib.Path(home) / "gpt4x" / "trusted.json" if os.path.isabs(home) else None


def _remembered() -> dict[str, list[str]]:
  """The files allowed, by the name of the module."""
  found, path = {}, _path()
  with contextlib.suppress(OSError, ValueError, RecursionError):
    content = json.loads(path.read_text(encoding="utf-8")) if path else None
    if isinstance(content, dict):
      found = {name: list(map(str, places)) for name, places in content.items() if isinstance(places, list)}
  return {name: [*found.get(name, ()), *_this_process.get(name, ())] for name in {**found, **_this_process}}


def _place(top: str) -> str | None:
  """The file, or the folder, that a top-level module stands for; None if there is none. Imports nothing."""
  try:
    spec = importlib.util.find_spec(top)
  except (ImportError, ValueError):
    return None
  if spec is None:
    return None
  locations = list(spec.submodule_search_locations or ())
  # A folder without a file of its own is a package too: of whatever lies in it.
  place = spec.origin if spec.origin and spec.origin != "namespace" else next(iter(locations), None)
  return os.path.realpath(place) if place else None
