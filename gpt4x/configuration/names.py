"""What gin has registered: configurables by name, their parameters, and the references in a value."""

from collections.abc import Iterable, Iterator, Mapping
import inspect
from typing import Any

import gin
from gin.config import Configurable
from gin.config import ConfigurableReference as Reference

from gpt4x.errors import CommandError, nearest

MACRO = "gin.macro"
REGISTRY = gin.config._REGISTRY  # There is no public way to list the names.  pylint: disable=protected-access


def find(selector: str) -> Configurable:
  """The configurable of a name; where gin itself has one of that name, as `constant`, it is the other that is meant."""
  matches = REGISTRY.matching_selectors(selector)
  if len(matches) > 1:
    matches = [match for match in matches if REGISTRY[match].module != "gin"]
  if len(matches) > 1:
    raise CommandError(f"{selector} may be any of {', '.join(sorted(matches))}: write more of the name")
  if not matches:
    known = {configurable.name for _, configurable in REGISTRY.items() if configurable.module != "gin"}
    raise CommandError(f"unknown configurable {selector}{nearest(selector.rsplit('.', 1)[-1], known)}")
  return REGISTRY[matches[0]]


def of_object(value: Any) -> Configurable | None:
  """The configurable that is this class or function, if it is one."""
  return next((one for _, one in REGISTRY.items()
               if one.module != "gin" and (value is one.wrapped or value is one.wrapper)), None)


def shortest(selector: str) -> str:
  """The shortest name that means the configurable of a full name."""
  return REGISTRY.minimal_selector(selector)


def parameters(configurable: Configurable) -> dict[str, inspect.Parameter]:
  return dict(inspect.signature(configurable.wrapped).parameters)


def required(configurable: Configurable) -> list[str]:
  """The parameters without a default."""
  return [name for name, parameter in parameters(configurable).items()
          if any(parameter.default is it for it in (parameter.empty, gin.REQUIRED))
          and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]


def references(value: Any) -> Iterator[Reference]:
  return gin.config.iterate_references({"": value})


def owner(scope: str, selector: str) -> str:
  """What a binding is of: the name of the macro, or the full name of the configurable."""
  return scope if selector == MACRO else selector


def needed(values: Mapping[tuple[str, str, str], Any], roots: Iterable[str]) -> set[str]:
  """The owners of bindings that a call of the `roots` may ask for, given all values by scope, full name, parameter."""
  ahead, found = set(roots), set[str]()
  while ahead:
    found |= ahead
    met = [value for (scope, selector, _), value in values.items() if owner(scope, selector) in ahead]
    ahead = {one.configurable.selector for one in references(met)} | set(macros(met))
    ahead -= found
  return found


def macro_name(value: Any) -> str | None:
  """The name of the macro that a value is, if it is one."""
  return "/".join(value.scopes) if isinstance(value, Reference) and value.configurable.selector == MACRO else None


def macros(value: Any) -> list[str]:
  return [name for reference in references(value) if (name := macro_name(reference)) is not None]
