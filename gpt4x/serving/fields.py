"""Reading the fields of a request: each is what it should be, or the request is refused by its name."""

from collections.abc import Collection, Mapping
import json
import math
from typing import Any, NoReturn


class Refused(Exception):
  """A request that is not answered: the status, and the error as clients of this API know it."""

  def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None,
               kind: str = "invalid_request_error", retry_after: float | None = None):
    super().__init__(message)
    self.status, self.retry_after = status, retry_after
    self.error = {"message": message, "type": kind, "param": param, "code": code}


def parse(body: bytes) -> "Fields":
  """The object of a JSON body."""
  try:
    found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
  except UnicodeDecodeError:
    raise Refused("the body is not UTF-8") from None
  except RecursionError:
    raise Refused("the body is nested too deeply") from None
  except ValueError as error:
    raise Refused(f"the body is no JSON: {getattr(error, 'msg', None) or 'a number is too long, or none'}") from None
  if not isinstance(found, dict):
    raise Refused("the body must be a JSON object")
  return Fields(found)


def _no_constant(name: str) -> NoReturn:
  raise ValueError(f"{name} is no number")


class Fields:
  """The fields of an object; null stands for one that is not there. `end` refuses those that nobody asked for."""

  def __init__(self, found: Mapping[str, Any], where: str = ""):
    self._found, self._where, self._asked = found, where, set[str]()

  def any(self, name: str) -> Any:
    """Whatever it is."""
    self._asked.add(name)
    return self._found.get(name)

  def number(self, name: str, default: float, low: float, high: float) -> float:
    value = self.any(name)
    if value is None:
      return default
    if isinstance(value, bool) or not isinstance(value, int | float):
      self.refuse(name, "must be a number")
    if not low <= value <= high or not math.isfinite(value):
      self.refuse(name, f"must be from {low:g} to {high:g}")
    return float(value)

  def whole(self, name: str, default: int, low: int, high: int) -> int:
    found = self.optional(name, low, high)
    return default if found is None else found

  def optional(self, name: str, low: int, high: int) -> int | None:
    """A whole number, if there is one."""
    value = self.any(name)
    if value is None:
      return None
    if isinstance(value, bool) or not isinstance(value, int):
      self.refuse(name, "must be a whole number")
    if not low <= value <= high:
      self.refuse(name, f"must be from {low:,} to {high:,}")
    return value

  def flag(self, name: str) -> bool:
    value = self.any(name)
    if value is not None and not isinstance(value, bool):
      self.refuse(name, "must be true or false")
    return bool(value)

  def text(self, name: str) -> str:
    value = self.any(name)
    if not isinstance(value, str):
      self.refuse(name, "must be text")
    return self.checked(name, value)

  def objects(self, name: str, most: int) -> list["Fields"]:
    value = self.any(name)
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
      self.refuse(name, "must be a list of objects, and not empty")
    if len(value) > most:
      self.refuse(name, f"has {len(value):,} items, and {most:,} are allowed")
    return [Fields(one, f"{self._where}{name}[{number}].") for number, one in enumerate(value)]

  def neutral(self, values: Mapping[str, Collection[Any]]) -> None:
    """Fields that may only be what leaves everything as it is."""
    for name, allowed in values.items():
      if (value := self.any(name)) is not None and not any(
          type(value) is type(one) and value == one for one in allowed):
        self.refuse(name, "is not supported")

  def ignore(self, *names: str) -> None:
    """Fields that say nothing about the answer."""
    self._asked.update(names)

  def end(self) -> None:
    if others := sorted(set(self._found) - self._asked):
      raise Refused(f"there is no field {self._where}{shortened(others[0])}", self._where + shortened(others[0]),
                    code="unknown_parameter")

  def checked(self, name: str, text: str) -> str:
    """A text that can be written, which half of a surrogate pair cannot."""
    try:
      text.encode("utf-8")
    except UnicodeEncodeError:
      self.refuse(name, "has half of a character")
    return text

  def refuse(self, name: str, what: str) -> NoReturn:
    raise Refused(f"{self._where}{name} {what}", self._where + name, code="invalid_value")


def shortened(name: str) -> str:
  """A name as a message may have it."""
  name = name.encode("ascii", "backslashreplace").decode()
  return name if len(name) <= 40 else f"{name[:37]}..."
