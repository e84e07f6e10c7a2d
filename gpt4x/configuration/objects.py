"""Objects as the gin text that makes them again: the other way round from what gin does.

An object can be written if its class is registered with gin and keeps its arguments as attributes, as dataclasses do,
or if a function made it that `remembered` has wrapped.
"""

from collections.abc import Callable, Collection
import contextlib
import dataclasses
import functools
import inspect
from typing import Any, ParamSpec, TypeVar

import gin

from gpt4x.configuration import names
from gpt4x.configuration.names import Configurable, MACRO, Reference
from gpt4x.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")
Config = dict[tuple[str, str], dict[str, Any]]  # As gin keeps it: by scope and full name, the values of parameters.
_MADE_BY = "_gpt4x_made_by"


class Unwritable(UserError):
  """An object that gin text cannot say."""


def remembered(function: Callable[P, R]) -> Callable[P, R]:
  """Makes the functions that `function` returns remember it and its arguments; it stands below `@gin.configurable`."""
  signature = inspect.signature(function)

  @functools.wraps(function)
  def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    result = function(*args, **kwargs)
    with contextlib.suppress(AttributeError):  # Of a tuple, perhaps, which has no room for it.
      setattr(result, _MADE_BY, (wrapper, dict(bound.arguments)))
    return result

  setattr(wrapper, "__signature__", signature)  # noqa: B010  Gin asks for it, and follows no wrapper.
  return wrapper


def text_of(root: Any, may_lack: Collection[str] = ()) -> tuple[str, list[str]]:
  """Gin text that makes `root` again, with all else that gin has now, such as the files of a corpus.

  Returns the text, and the fields of `root` among `may_lack` that it leaves out since gin text cannot say them.

  Raises:
    UserError: for any other argument, or argument of an argument, that gin text cannot say.
  """
  repeated, overruled, writer = set[str](), set[str](), None
  while writer is None or (writer.repeated, writer.overruled) != (repeated, overruled):
    if writer:
      repeated, overruled = writer.repeated, writer.overruled
    writer = _Writer(repeated, overruled)
    lacking = writer.bind(root, "", may_lack)
  now: Config = gin.config._CONFIG  # There is no public way to print a part.  pylint: disable=protected-access
  flat = lambda config: {(*key, name): value for key, values in config.items() for name, value in values.items()}
  replaced = names.needed(flat(now), writer.selectors[:1]) | set(writer.selectors)
  config = writer.config | {key: values for key, values in now.items() if key[1] not in (MACRO, *replaced)}
  # A macro that nothing reads any more could be set in vain.
  read = names.needed(flat(now) | flat(config), set(names.macros(list(config.values()))))
  config |= {key: values for key, values in now.items() if key[1] == MACRO and key[0] in read}
  text = gin.config._config_str(config, 100)  # pylint: disable=protected-access
  return "".join(f"import {module}\n" for module in sorted(writer.modules)) + text, lacking


class _Writer:
  """Collects the arguments of objects, of each object once, as gin keeps them."""

  def __init__(self, repeated: Collection[str], overruled: Collection[str]):
    """Takes what another writer has found.

    Args:
      repeated: the classes of several objects, each of which gets a scope: within a scope, no scope would be the same.
      overruled: the macros whose value some argument has no longer; none keeps them, or setting one would do half.
    """
    self._scoped, self._avoided = set(repeated), set(overruled)
    self.overruled = set(overruled)
    self.config: Config = {}
    self.selectors: list[str] = []  # Of the objects, in the order in which they are met.
    self.modules: set[str] = set()
    self._references: list[tuple[Any, Reference]] = []

  @property
  def repeated(self) -> set[str]:
    return {selector for selector in self.selectors if self.selectors.count(selector) > 1}

  def bind(self, value: Any, scope: str, may_lack: Collection[str] = ()) -> list[str]:
    """Binds the arguments of an object in a scope; returns those of `may_lack` that cannot be said."""
    configurable, arguments = _made_by(value)
    self._import(configurable)
    self.selectors.append(configurable.selector)
    bound, lacking = self.config.setdefault((scope, configurable.selector), {}), []
    for name, argument in arguments.items():
      try:
        bound[name] = self._as_bound(configurable, name, argument) or self._value(argument)
      except Unwritable as error:
        if name not in may_lack:
          raise Unwritable(f"{configurable.name}.{name}: {error}") from None
        lacking.append(f"{configurable.name}.{name}")
    return lacking

  def _value(self, value: Any) -> Any:
    """A value with references in the places of objects."""
    if type(value) is dict:
      return {self._value(key): self._value(one) for key, one in value.items()}
    if type(value) in (list, tuple):
      return type(value)(map(self._value, value))
    if value is None or type(value) in (bool, int, float, str, bytes):
      if not gin.config._is_literally_representable(value):  # pylint: disable=protected-access
        raise Unwritable(f"{value!r} has no literal: choose another value")
      return value
    if itself := names.of_object(value):  # A function or class, not called.
      self._import(itself)
      return Reference(names.shortest(itself.selector), False)
    for other, reference in self._references:
      if other is value or (dataclasses.is_dataclass(value) and type(other) is type(value) and other == value):
        return reference
    selector = _made_by(value)[0].selector
    scope = ""
    if selector in self._scoped:
      scope = f"{names.REGISTRY[selector].name}_{self.selectors.count(selector) + 1}"
    reference = Reference(f"{scope}/{names.shortest(selector)}".lstrip("/"), True)
    self._references.append((value, reference))
    self.bind(value, scope)
    return reference

  def _as_bound(self, configurable: Configurable, name: str, argument: Any) -> Any:
    """What gin has for an argument now, where that is a macro of the same value: it stays one that can be set."""
    config: Config = gin.config._CONFIG  # pylint: disable=protected-access
    bound = value = config.get(("", configurable.selector), {}).get(name)
    chain = set()
    while (macro := names.macro_name(value)) is not None:
      chain.add(macro)
      value = config.get((macro, MACRO), {}).get("value")
    if not _same(value, argument) and not (isinstance(value, dict) and value == argument):
      self.overruled |= chain
      return None
    return bound if chain and not chain & self._avoided else None

  def _import(self, configurable: Configurable) -> None:
    module = configurable.wrapped.__module__
    if module == "__main__":
      raise Unwritable(f"{configurable.name} is defined in __main__, which no other process can import: move it into a"
                       " module of its own")
    if not module.startswith("gpt4x."):
      self.modules.add(module)


def _made_by(value: Any) -> tuple[Configurable, dict[str, Any]]:
  """What makes an object, and the arguments that are not the default."""
  maker, kept = getattr(value, _MADE_BY, None) or (type(value), None)
  configurable = names.of_object(maker)
  if configurable is None:
    text = " ".join(repr(value).split())
    raise Unwritable(f"{text if len(text) < 80 else f'{text[:77]}...'} is of no class or function that gin knows:"
                     " register that with @gin.configurable")
  fields = {field.name: field for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else {}
  arguments = {}
  for name, parameter in names.parameters(configurable).items():
    if name in (configurable.denylist or ()):
      continue  # No gin text may say it.
    if kept is None and not hasattr(value, name):
      raise Unwritable(f"{configurable.name} does not keep its argument {name} as an attribute: make it do so")
    argument, default = getattr(value, name) if kept is None else kept[name], parameter.default
    if (field := fields.get(name)) and field.default_factory is not dataclasses.MISSING:
      default = field.default_factory()
    if not _same(argument, default):
      arguments[name] = argument
  return configurable, arguments


def _same(one: Any, other: Any) -> bool:
  return one is other or (type(one) is type(other) and isinstance(one, (bool, int, float, str, tuple)) and one == other)
