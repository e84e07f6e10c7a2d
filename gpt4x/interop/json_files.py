"""Reads small JSON files that others wrote, and says of a value whether a field may have it."""

import collections
import json
import math
import pathlib
import types
from typing import Any, get_args, get_origin, Literal, Union

from gpt4x.errors import one_line, UserError

_MAX_BYTES = 1 << 26  # The index of a hundred thousand tensors has a seventh of it.
_MAX_DEPTH = 20


def read(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file; a name that it has twice, or a number that is not finite, is an error."""
  try:
    with open(path, "rb") as file:
      content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
      raise ValueError(f"more than {_MAX_BYTES:,} bytes")
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


def fits(value: Any, kind: Any) -> bool:
  """Whether a JSON value is of a type as dataclasses declare it; a list may be a tuple, and a whole number a float."""
  origin, parts = get_origin(kind), get_args(kind)
  if origin in (Union, types.UnionType):
    return any(fits(value, part) for part in parts)
  if origin is Literal:
    return value in parts
  if origin in (list, tuple):
    return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
  if kind is float and type(value) is float:
    return abs(value) < 1e30  # Finite in float32.
  if kind in (int, float):
    return type(value) is int and abs(value) < 2**31  # As JAX has it.
  return type(value) is kind


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
