"""Strict reading of bodies: as JSON within limits, by fields of the kinds and sizes that they must have."""

from collections.abc import Callable, Mapping
import json
import re
from typing import Any

from gpt4x.errors import one_line
from gpt4x.serving.problems import Problem, wrong

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_MAY_BE_A_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read(body: bytes, max_depth: int) -> "Fields":
  """The fields of a body, which must be an object of JSON in UTF-8; raises Problem."""
  _check_depth(body, max_depth)
  try:
    value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
  except UnicodeDecodeError:
    raise wrong("the body is not UTF-8") from None
  except (ValueError, RecursionError):  # The first also of integers with thousands of digits.
    raise wrong("the body is not JSON") from None
  if not isinstance(value, dict):
    raise wrong("the body must be an object of JSON")
  if _MAY_BE_A_SURROGATE.search(body):
    _check_texts(value)
  return Fields(value)


def _check_depth(body: bytes, max_depth: int) -> None:
  """Counts brackets outside of strings, before anything is parsed."""
  depth = 0
  for bracket in _BRACKET.finditer(_STRING.sub(b"", body)):
    depth += 1 if bracket[0] in b"[{" else -1
    if depth > max_depth:
      raise wrong(f"the body nests more than {max_depth} deep")


def _no_constant(_: str) -> None:
  raise ValueError("NaN and Infinity are not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  value = dict(pairs)
  if len(value) < len(pairs):
    raise wrong("an object of the body has a name twice")
  return value


def _check_texts(value: Any) -> None:
  """Refuses halves of surrogate pairs, which no encoding can write."""
  if isinstance(value, str):
    if any("\ud800" <= one <= "\udfff" for one in value):
      raise wrong("a text of the body has half of a surrogate pair")
  elif isinstance(value, dict):
    for name, one in value.items():
      _check_texts(name)
      _check_texts(one)
  elif isinstance(value, list):
    for one in value:
      _check_texts(one)


def is_integer(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


class Fields:
  """The fields of an object. Each is taken once; null is as good as absent; `finish` refuses those that are left."""

  def __init__(self, value: Mapping[str, Any], where: str = ""):
    """`where` is what stands before names in errors, such as `messages[0].`."""
    self._left, self._where = dict(value), where

  def take(self, name: str) -> Any:
    """Whatever the field holds, or None."""
    return self._left.pop(name, None)

  def _wrong(self, name: str, why: str, code: str | None = None) -> Problem:
    name = self._where + one_line(name, 64)
    return wrong(f"{name} {why}", name, code)

  def number(self, name: str, low: float, high: float, default: float) -> float:
    value = self.take(name)
    if value is None:
      return default
    # Compared before it is made a float, which some integers are too large for. NaN is in no interval.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
      raise self._wrong(name, f"must be a number from {low:g} to {high:g}")
    return float(value)

  def integer(self, name: str, low: int, high: int, default: int) -> int:
    value = self.optional_integer(name, low, high)
    return default if value is None else value

  def optional_integer(self, name: str, low: int, high: int) -> int | None:
    value = self.take(name)
    if value is None:
      return None
    if isinstance(value, float) and value.is_integer():
      value = int(value)
    if not is_integer(value) or not low <= value <= high:
      raise self._wrong(name, f"must be a whole number from {low} to {high}")
    return value

  def flag(self, name: str) -> bool:
    value = self.take(name)
    if value is None:
      return False
    if not isinstance(value, bool):
      raise self._wrong(name, "must be true or false")
    return value

  def text(self, name: str, default: str | None = None) -> str | None:
    value = self.take(name)
    if value is None:
      return default
    if not isinstance(value, str):
      raise self._wrong(name, "must be a text")
    return value

  def finish(self, neutral: Mapping[str, Callable[[Any], bool]]) -> None:
    """Takes fields that this server has nothing for, with values that ask for nothing; refuses all others."""
    for name, fits in neutral.items():
      value = self.take(name)
      if value is not None and not fits(value):
        raise self._wrong(name, "is not supported here with this value: leave it out", "unsupported_value")
    for name in self._left:
      raise self._wrong(name, "is no field that is known here", "unknown_parameter")
