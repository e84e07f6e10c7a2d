"""Whether a value in a gin file is of the kind that its parameter is annotated with, before anything is called."""

import collections.abc
import contextlib
import inspect
import sys
import types
import typing
from typing import Any, get_args, get_origin, Literal, Union

from gpt4x.configuration import names
from gpt4x.configuration.names import Configurable, Reference

_MAPPINGS = (dict, collections.abc.Mapping)
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


def annotations(configurable: Configurable) -> dict[str, Any]:
  """What each parameter of a configurable is to be, and the "return" of a function; empty if that cannot be known."""
  wrapped = configurable.wrapped
  owners = [*reversed(wrapped.__mro__), inspect.unwrap(wrapped.__init__)] if inspect.isclass(wrapped) else [wrapped]
  found: dict[str, Any] = {}
  for owner in owners:
    for name, annotation in getattr(owner, "__annotations__", {}).items():
      with contextlib.suppress(Exception):  # Names that exist for type checkers alone, and the like.
        named = types.SimpleNamespace(__annotations__={name: annotation}, __module__=owner.__module__)
        found[name] = typing.get_type_hints(named, vars(sys.modules[owner.__module__]))[name]
  return found | ({"return": wrapped} if inspect.isclass(wrapped) else {})


def mismatch(value: Any, annotation: Any) -> str | None:
  """What a value should be instead, in words; None if it may stand. References may stand in it, macros may not."""
  if fits(value, annotation):
    return None
  if isinstance(value, Reference) and not value.evaluate and _gives(value, annotation):
    return f"called: write {value!r}()"
  return in_words(annotation)


def fits(value: Any, annotation: Any) -> bool:
  """Whether a value, as gin has parsed it, may stand where the annotation is."""
  if isinstance(value, Reference):
    return _gives(value, annotation) if value.evaluate else _is_function(value, annotation)
  kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
  if kind in (Union, types.UnionType):
    return any(fits(value, one) for one in arguments)
  if kind is Literal:
    return any(value == one and isinstance(value, type(one)) for one in arguments)
  if kind in (None, types.NoneType):
    return value is None
  if kind in (bool, str, bytes):
    return isinstance(value, kind)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
  if kind in _MAPPINGS:
    key, item = arguments or (Any, Any)
    return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in value.items())
  if kind in _SEQUENCES:
    if not isinstance(value, (list, tuple)):
      return False
    if kind is tuple and arguments and arguments[-1] is not ...:
      return len(value) == len(arguments) and all(map(fits, value, arguments))
    return all(fits(one, arguments[0] if arguments else Any) for one in value)
  if kind is collections.abc.Callable:
    return False  # Only references are functions.
  if not inspect.isclass(kind) or kind is Any:
    return True
  return not _is_protocol(kind) and isinstance(value, kind)  # A protocol's methods are those of objects.


def _is_function(reference: Reference, annotation: Any) -> bool:
  """Whether a configurable that is not called may stand here: not where its result should."""
  kinds = [get_origin(one) or one for one in _members(annotation)]
  if not any(kind in (Any, type, collections.abc.Callable, inspect.Parameter.empty) for kind in kinds):
    return False
  result = annotations(reference.configurable).get("return", Any)
  return Any in kinds or Any in _members(result) or not _agree(result, annotation)


def _gives(reference: Reference, annotation: Any) -> bool:
  """Whether the result of a call may stand here, as far as it is declared."""
  return _agree(annotations(reference.configurable).get("return", Any), annotation)


def _agree(found: Any, wanted: Any) -> bool:
  """Whether a value of one annotation may be one of the other."""
  return any(_one_agrees(one, other) for one in _members(found) for other in _members(wanted))


def _one_agrees(found: Any, wanted: Any) -> bool:
  if found == wanted or Any in (found, wanted) or isinstance(found, typing.TypeVar):
    return True
  kind, other = get_origin(found) or found, get_origin(wanted) or wanted
  if collections.abc.Callable in (kind, other):
    if kind is not other:  # An object that can be called is a function too.
      one = kind if other is collections.abc.Callable else other
      return inspect.isclass(one) and any("__call__" in vars(base) for base in one.__mro__)
    results = [(get_args(one) or (..., Any))[-1] for one in (found, wanted)]
    return not all(inspect.isclass(one) for one in results) or _one_agrees(*results)
  if not inspect.isclass(kind) or not inspect.isclass(other):
    return True
  if _is_protocol(other):
    methods = [name for name, one in vars(other).items() if callable(one) and (name[0] != "_" or name == "__call__")]
    return all(any(name in vars(base) for base in kind.__mro__) for name in methods)
  return issubclass(kind, other)


def _is_protocol(kind: type) -> bool:
  return getattr(kind, "_is_protocol", False)


def _members(annotation: Any) -> list[Any]:
  if get_origin(annotation) in (Union, types.UnionType):
    return [member for one in get_args(annotation) for member in _members(one)]
  return [annotation]


def in_words(annotation: Any) -> str:
  """An annotation as the end of "must be"."""
  kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
  if kind in (Union, types.UnionType, Literal):
    words = [repr(one) for one in arguments] if kind is Literal else list(dict.fromkeys(map(in_words, arguments)))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
  if kind in _MAPPINGS:
    key, item = arguments or (Any, Any)
    return f"a mapping such as {{'a': 1}}, from {in_words(key)} to {in_words(item)}"
  if kind in _SEQUENCES:
    if kind is tuple and arguments and arguments[-1] is not ...:
      return f"({', '.join(map(in_words, arguments))})"
    return f"a list of {in_words(arguments[0]) if arguments else 'anything'} each"
  known = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a string in quotes",
           types.NoneType: "None", collections.abc.Callable: "a function, as @NAME() gives"}
  if kind in known:
    return known[kind]
  configurable = names.of_object(kind)
  return f"@{configurable.name}()" if configurable else f"a {getattr(kind, '__name__', kind)}"
