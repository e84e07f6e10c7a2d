"""Checks of all bindings together, once they are read: that nothing is missing, unread, circular or of a wrong kind."""

from collections.abc import Callable, Collection
import difflib
import inspect
from typing import Any

from gpt4x.configuration import kinds, names
from gpt4x.configuration.names import MACRO
from gpt4x.configuration.reader import Reader
from gpt4x.errors import CommandError, nearest


def keep_only_needed(reader: Reader, roots: Collection[Callable[..., Any] | str]) -> None:
  """Forgets the bindings that building the `roots` never asks for; raises for what it asks for and is not known."""
  found = [names.find(root) if isinstance(root, str) else names.of_object(root) for root in roots]
  needed = names.needed({key: value for key, (value, _) in reader.bindings.items()},
                        {one.selector for one in found if one})
  for (scope, selector, _), error in reader.absent.items():
    if names.owner(scope, selector) in needed:
      raise error
  reader.bindings = {key: binding for key, binding in reader.bindings.items() if names.owner(*key[:2]) in needed}


def macros_are_read(reader: Reader) -> None:
  for (scope, selector, _), (_, where) in reader.bindings.items():
    if selector == MACRO and scope not in reader.macros_read:
      raise CommandError(f"{where}: nothing reads the macro {scope}{nearest(scope, reader.macros_read)}")


def macros_are_set(reader: Reader) -> None:
  unset: dict[str, str] = {}  # Name: the first place that needs it.
  for (scope, selector, parameter), (value, where) in reader.bindings.items():
    if _is_always_another(reader, scope, selector, parameter):
      continue
    for macro in names.macros(value):
      if macro not in reader.macros_set():
        unset.setdefault(macro, where)
    if "%gin.REQUIRED" in map(repr, names.references(value)):
      path = f"{scope}/" if scope else ""
      unset[scope if selector == MACRO else f"{path}{names.shortest(selector)}.{parameter}"] = where
  for name, where in unset.items():
    for near in difflib.get_close_matches(name, reader.macros_set() - set(unset), n=1, cutoff=0.9):
      raise CommandError(f"{where}: {name} is not set: did you mean {near}?")
  if unset:
    name, where = next(iter(unset.items()))
    raise CommandError(
        f"{where}: {', '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set: give a --gin_file that does so,"
        f" or --gin.{name}=VALUE")


def _is_always_another(reader: Reader, scope: str, selector: str, parameter: str) -> bool:
  """Whether every call that anything refers to is in a scope with a value of its own, so that this one has no use."""
  calls = [one for value, _ in reader.bindings.values() for one in names.references(value)
           if one.configurable.selector == selector]
  scopes = lambda call: ("/".join(call.scopes[:end]) for end in range(1, len(call.scopes) + 1))
  return not scope and selector != MACRO and bool(calls) and all(
      any((inner, selector, parameter) in reader.bindings for inner in scopes(call)) for call in calls)


def arguments_are_set(reader: Reader, root: str | None = None) -> None:
  """Of what a call of `root` asks for; without one, of what macros and functions do.

  A class that nothing refers to, such as a model that another has taken the place of, is checked when it is built.
  """
  roots = {root} if root else {names.owner(scope, selector) for scope, selector, _ in reader.bindings
                               if selector == MACRO or not inspect.isclass(names.REGISTRY[selector].wrapped)}
  asked = names.needed({key: value for key, (value, _) in reader.bindings.items()}, roots)
  for (scope, selector, _), (value, where) in reader.bindings.items():
    if names.owner(scope, selector) not in asked:
      continue
    for reference in names.references(value):
      configurable = reference.configurable
      if configurable.selector == MACRO or not reference.evaluate or configurable.is_method:
        continue  # The caller may have the arguments.
      if missing := missing_arguments(reader, configurable):
        raise CommandError(f"{where}: {configurable.name} needs a value for {', '.join(missing)}: set"
                           f" {configurable.name}.{missing[0]}")


def missing_arguments(reader: Reader, configurable: names.Configurable) -> list[str]:
  """A binding in any scope counts, for the scopes around a call are known only when it happens."""
  bound = {parameter for _, selector, parameter in reader.bindings if selector == configurable.selector}
  return [name for name in names.required(configurable) if name not in bound]


def scopes_are_entered(reader: Reader) -> None:
  """A binding in a scope counts only within a call by a reference with that scope, as in @scope/name()."""
  entered = {"/".join(one.scopes[:end]) for value, _ in reader.bindings.values() for one in names.references(value)
             if one.configurable.selector != MACRO for end in range(len(one.scopes) + 1)}
  for key, (_, where) in reader.bindings.items():
    scope, selector, parameter = key
    if selector != MACRO and scope not in entered | {""} and key not in reader.saved:
      name = names.shortest(selector)
      raise CommandError(f"{where}: nothing enters the scope {scope}{nearest(scope, entered - {''})}, so {parameter}"
                         f" would be ignored: write @{scope}/{name}() where it is used, or {name}.{parameter} = ...")


def no_circles(reader: Reader) -> None:
  """No macro is set by way of itself, and no configurable's own arguments call it."""
  done = set[str]()

  def follow(reference: names.Reference, where: str, path: tuple[str, ...]) -> None:
    macro = names.macro_name(reference)
    if macro is None and not reference.evaluate:
      return
    step = f"%{macro}" if macro is not None else repr(reference)
    if step in path:
      circle = " -> ".join([*path[path.index(step):], step])
      raise CommandError(f"{where}: {circle} refers to itself: give one of them a value")
    if step in done:
      return
    scopes = [macro] if macro is not None else ["/".join(reference.scopes[:end])
                                                for end in range(len(reference.scopes) + 1)]
    arguments: dict[str, tuple[Any, str]] = {}  # As the call has them: a binding in the innermost scope counts.
    for wanted in scopes:
      arguments |= {parameter: binding for (scope, selector, parameter), binding in reader.bindings.items()
                    if scope == wanted and selector == reference.configurable.selector}
    for value, place in arguments.values():
      for inner in names.references(value):
        follow(inner, place, (*path, step))
    done.add(step)

  for value, where in reader.bindings.values():
    for reference in names.references(value):
      follow(reference, where, ())


def values_are_of_their_kind(reader: Reader) -> None:
  """Every value, wherever a macro has it from, is what its parameter is annotated with."""
  for (_, selector, parameter), (value, where) in reader.bindings.items():
    if selector == MACRO:
      continue
    configurable = names.REGISTRY[selector]
    annotation = kinds.annotations(configurable).get(parameter, Any)
    resolved, where = _resolved(reader, value, where)
    if (wanted := kinds.mismatch(resolved, annotation)) is not None:
      shown = repr(resolved)
      raise CommandError(f"{where}: {names.shortest(selector)}.{parameter} ="
                         f" {shown if len(shown) < 100 else shown[:97] + '...'} must be {wanted}")


def _resolved(reader: Reader, value: Any, where: str) -> tuple[Any, str]:
  """A value with macros replaced by theirs, and the place of what was said last about it as a whole."""
  if (macro := names.macro_name(value)) is not None:
    value, where = reader.bindings.get((macro, MACRO, "value"), (value, where))
    return _resolved(reader, value, where) if names.macro_name(value) != macro else (value, where)
  inside = lambda one: _resolved(reader, one, where)[0]
  if isinstance(value, dict):
    return {inside(key): inside(one) for key, one in value.items()}, where
  if isinstance(value, (list, tuple)):
    return type(value)(map(inside, value)), where
  return value, where


def place_of_parameter(reader: Reader, name: str) -> str | None:
  """Where the parameter of a short name, such as 'train.seed', gets its value; None if nothing sets it."""
  for (_, selector, parameter), (value, where) in reversed(reader.bindings.items()):
    if selector != MACRO and name in (f"{names.shortest(selector)}.{parameter}",
                                      f"{names.REGISTRY[selector].name}.{parameter}"):
      return _resolved(reader, value, where)[1]
  return None
