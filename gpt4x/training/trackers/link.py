"""The link from a model directory to the run of a service, such as W&B, that shows its metrics."""

import ast
from collections.abc import Mapping
import contextlib
import json
import re
from typing import Any

from gpt4x import storage
from gpt4x.training.trackers.tracker import Run


class Link:
  """Kept in a small file of the model directory, {"id": ..., "first": ...}.

  Attributes:
    id: the service's run to go on with; None: a new one is to be made, as after going back to an earlier step.
    first: the first of this directory's runs there, by which a service groups them.
  """

  def __init__(self, run: Run, file: str):
    self._path = storage.path(run.model_dir) / file
    saved: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # Without it, a new run has all.
      read = json.loads(storage.read(self._path) or b"")
      saved = read if isinstance(read, dict) else {}
    self.id: str | None = saved.get("id")
    self.first: str | None = saved.get("first")
    if self.id and run.went_back:  # The steps that follow differ from those that the service has.
      self.join(None)

  def join(self, identity: str | None) -> None:
    """Notes which run of the service is to be gone on with."""
    self.id, self.first = identity, self.first or identity
    storage.write(self._path, (json.dumps({"id": self.id, "first": self.first}) + "\n").encode())


def values_of(line: Mapping[str, Any]) -> dict[str, float]:
  """The values of a line of metrics.jsonl under the names that trackers know."""
  return {f"{line['split']}/{name}": float("nan") if value is None else value
          for name, value in line.items() if name not in ("step", "split")}


def settings(gin_text: str) -> dict[str, Any]:
  """The bindings and macros of gin text by name, as services show them; what is no literal stays text."""
  found: dict[str, Any] = {}
  for statement in re.sub(r"\\?\n\s+", " ", re.sub(r"(?m)^\s*#.*\n", "", gin_text)).splitlines():
    name, equals, text = statement.partition(" = ")
    if equals:
      found[name.strip()] = text = text.strip()
      with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        found[name.strip()] = value if isinstance(value, (bool, int, float, str)) else text
  return found
