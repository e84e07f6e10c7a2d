"""Reads small JSON files that others wrote, and says of a value whether a field may have it."""

import collections
import json
import math
import os
import pathlib
from typing import Any

from gpt4x.configuration import kinds
from gpt4x.errors import one_line, UserError

_MAX_BYTES = 1 << 26  # The index of a hundred thousand tensors has a seventh of it.
_MAX_DEPTH = 20


def read(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file; a name that it has twice, or a number that is not finite, is an error."""
  try:
    with open(path, "rb") as file:
      if (size := os.fstat(file.fileno()).st_size) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
      content = file.read(size)
    found = json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_float=_float, parse_constant=_float)
    _check_depth(found)
    if isinstance(found, dict):
      return found
    reason = "not an object"
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
    raise UserError(f"{path} is missing: copy it there, or name the directory that has it") from error
  except RecursionError:
    reason = "nested too deeply"
  except ValueError as error:
    reason = one_line(error)
  raise UserError(f"{path} is not a whole JSON file ({reason}): copy it again")


def mismatch(value: Any, annotation: Any) -> str | None:
  """What a JSON value should be instead to stand where the annotation is, in words; None if it may."""
  if isinstance(value, list):
    return next(filter(None, (mismatch(item, Any) for item in value)), None) or kinds.mismatch(value, annotation)
  # JAX takes a Python integer for an int32, and a float for a float32.
  if isinstance(value, int) and abs(value) >= 2**31 or isinstance(value, float) and abs(value) >= 1e30:
    return "a smaller number"
  return kinds.mismatch(value, annotation)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    (name, _), = collections.Counter(name for name, _ in pairs).most_common(1)
    raise ValueError(f"it has {one_line(name)} twice")
  return found


def _float(text: str) -> float:
  if not math.isfinite(number := float(text)):
    raise ValueError(f"it has {text}, which is no number")
  return number


def _check_depth(content: Any) -> None:
  level = [content]
  for _ in range(_MAX_DEPTH):
    containers = [item for item in level if isinstance(item, (dict, list))]
    level = [value for item in containers for value in (item.values() if isinstance(item, dict) else item)]
  if level:
    raise RecursionError
