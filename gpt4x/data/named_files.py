"""The files that a user names by globs, on this machine or in a bucket: those to train on, and those held out."""

from collections.abc import Sequence
import os
from typing import Protocol

from gpt4x import storage
from gpt4x.data import file_patterns, objects
from gpt4x.data.objects import Stat
from gpt4x.errors import UserError


class Named(Protocol):
  """A configuration with a glob, or several, for each split; its class has the name that gin knows."""

  @property
  def files(self) -> str | Sequence[str]: ...
  @property
  def validation_files(self) -> str | Sequence[str]: ...


def find(named: Named, what: str, example: str) -> tuple[tuple[Stat, ...], tuple[Stat, ...]]:
  """The files for training and those for validation, in order of their names; none is in both.

  Raises UserError for a glob that matches nothing, and where nothing is left to train on; `what` and `example` say what
  is missing where no files are named at all.
  """
  name = type(named).__name__
  if not named.files:
    raise UserError(f"{name}.files is not set; name {what}, for instance --gin.{name}.files=\"'{example}'\"")
  train, validation = (match(f"{name}.{field}", getattr(named, field)) for field in ("files", "validation_files"))
  train = {path: stat for path, stat in train.items() if path not in validation}
  if not train:
    raise UserError(f"{name}.validation_files = {named.validation_files!r} leaves no file to train on")
  return tuple(sorted(train.values())), tuple(sorted(validation.values()))


def match(parameter: str, patterns: str | Sequence[str]) -> dict[str, Stat]:
  """The files that globs match, by real path or URL: each once, whatever links there are to it."""
  files = dict[str, Stat]()
  for pattern in [patterns] if isinstance(patterns, str) else patterns:
    if storage.is_remote(pattern):
      files.update({stat[0]: stat for stat in objects.matches(parameter, pattern)})
      continue
    found = file_patterns.matches(pattern)
    if not found:
      raise file_patterns.no_match(parameter, pattern)
    for path in found:
      files.setdefault(os.path.realpath(path), stat_of(path))
  return files


def stat_of(path: str) -> Stat:
  """The size of a file or an object, and its time or hash, behind its path."""
  if storage.is_remote(path):
    return objects.stat(path)
  stat = os.stat(path)
  return path, stat.st_size, stat.st_mtime_ns
