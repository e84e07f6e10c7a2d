"""Reads gin text statement by statement, binds what it says, and remembers where each binding stands."""

from collections.abc import Callable, Iterator
import importlib
import importlib.util
import pathlib
import re
import tokenize
from typing import Any

import gin
from gin import config_parser

from gpt4x.configuration import files, names, trust
from gpt4x.configuration.names import MACRO
from gpt4x.errors import CommandError, nearest, one_line

Key = tuple[str, str, str]  # Scope, full name of the configurable, parameter. A macro's are its name, MACRO, "value".

# Parameters by their names in the saved text of earlier versions, and their names now; None: they are gone.
EARLIER = {"evaluate.experiment": None, "generate.experiment": None, "held_out_text.experiment": None,
           "LanguageModel.z_loss": "NextToken.z_loss"}

_DEEPEST = 50  # What follows a value does so by recursion.


class Reader:
  """Binds statements as it reads them.

  Attributes:
    bindings: the value of each binding, and its place.
    macros_read: every macro that a statement refers to, even one overridden later.
    saved: the bindings that come from saved text.
    files: the files that were read.
    imports: the modules that were imported, but for those in saved text.
    absent: bindings whose names are unknown, with the error, if the reader is `forgiving`.
  """

  def __init__(self, forgiving: bool = False):
    """A `forgiving` reader passes over what it cannot import or does not know, which may not be needed."""
    self.bindings: dict[Key, tuple[Any, str]] = {}
    self.macros_read: set[str] = set()
    self.saved: set[Key] = set()
    self.files: list[pathlib.Path] = []
    self.imports: list[str] = []
    self.absent: dict[Key, CommandError] = {}
    self._forgiving = forgiving
    self._failed_import: CommandError | None = None
    self._open_files: list[pathlib.Path] = []

  def macros_set(self) -> set[str]:
    return {scope for scope, selector, _ in self.bindings if selector == MACRO}

  def read_file(self, path: pathlib.Path) -> None:
    if path in self._open_files or len(self._open_files) > 50:
      raise CommandError(f"{path} includes itself: remove one of {', '.join(map(str, self._open_files[:50]))}")
    self._open_files.append(path)
    self.files.append(path)
    self.read_text(files.read(path), lambda line: f"{path}:{line}")
    self._open_files.pop()

  def read_binding(self, binding: str) -> None:
    name, _, value = binding.partition("=")
    shown = f"--gin.{one_line(binding)}"
    if not re.fullmatch(r"\w+([./]\w+)*", name) or not value:
      raise CommandError(f"{shown}: write --gin.NAME=VALUE")
    try:
      self.read_text(f"{name} = {value}", lambda _: shown)
    except GinSyntaxError:
      raise CommandError(
          f"{shown}: {one_line(value)} is not a gin value; if it is a string, it needs quotes of its own:"
          f" --gin.{name}=\"'{one_line(value)}'\"") from None

  def read_saved(self, text: str, where: str) -> None:
    """Reads what an earlier run saved, perhaps somebody else's and by an earlier version: nothing in it is opened, and
    only what is trusted is imported."""
    self.read_text(text, lambda line: f"{where}:{line}", saved=True)
    self.macros_read |= self.macros_set()  # What read a macro may have been overridden, and so not saved.
    self.saved |= set(self.bindings)

  def read_text(self, text: str, place: Callable[[int], str], saved: bool = False) -> None:
    for statement in _statements(text, place, self._forgiving):
      if saved and not (statement := _as_today(statement)):
        continue
      where = place(statement.location.line_num)
      included = None
      try:
        if isinstance(statement, config_parser.IncludeStatement):
          if saved:
            raise CommandError("a saved configuration includes no file: take this line out if you trust the rest")
          included = files.find(statement.filename, self._open_files[-1].parent if self._open_files else None)
        elif isinstance(statement, config_parser.ImportStatement):
          self._import(statement, saved)
        elif isinstance(statement, config_parser.BlockDeclaration):
          if not self._forgiving:
            names.find(statement.selector)
        else:
          self._bind(statement, where)
      except CommandError as error:
        raise CommandError(f"{where}: {error}") from None
      if included:
        self.read_file(included)

  def _import(self, statement: config_parser.ImportStatement, saved: bool) -> None:
    if statement.module.startswith("__gin__"):
      raise CommandError("dynamic registration is not used here: remove this line, and name configurables directly")
    try:
      if saved:
        trust.check(statement.module)
      _import_module(statement)
      if not saved:
        self.imports.append(statement.module)
    except CommandError as error:
      if not self._forgiving:
        raise
      self._failed_import = error

  def _bind(self, statement: config_parser.BindingStatement, where: str) -> None:
    scope, selector, parameter, value, _ = statement
    if _depth(value) > _DEEPEST:
      name = ".".join(filter(None, (selector, parameter)))
      raise CommandError(f"{name} is nested more than {_DEEPEST} deep: simplify it")
    if not parameter:
      scope, selector, parameter = f"{scope}/{selector}" if scope else selector, MACRO, "value"
    try:
      if selector != MACRO:
        configurable = names.find(selector)
        known = names.parameters(configurable)
        if parameter not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
          raise CommandError(f"{selector} has no parameter {parameter}{nearest(parameter, known)}")
        selector = configurable.selector
      for unknown in _unknown(value):
        raise unknown.error
    except CommandError as error:
      if not self._forgiving:
        raise
      # As gin would have it, the last binding counts.
      self.bindings.pop((scope, selector, parameter), None)
      why = f"{self._failed_import}, and without it: " if self._failed_import else ""
      self.absent[scope, selector, parameter] = CommandError(f"{where}: {why}{error}")
      return
    try:
      gin.bind_parameter((scope, selector, parameter), value)
    except ValueError as error:  # A parameter that its configurable withholds from gin.
      raise CommandError(str(error).splitlines()[0]) from None
    self.absent.pop((scope, selector, parameter), None)
    self.bindings[scope, selector, parameter] = value, where
    self.macros_read.update(names.macros(value))


class GinSyntaxError(CommandError):
  """Text that is not gin."""


class _Unknown:
  """Stands for a reference to a name that is not known."""

  def __init__(self, error: CommandError):
    self.error = error


def _unknown(value: Any) -> Iterator[_Unknown]:
  if isinstance(value, _Unknown):
    yield value
  elif isinstance(value, dict):
    yield from _unknown(list(value.items()))
  elif isinstance(value, (list, tuple)):
    for one in value:
      yield from _unknown(one)


def _depth(value: Any) -> int:
  """How deep containers lie in each other, found without recursion."""
  depth, level = 0, [value]
  while level := [inner for one in level for inner in (
      [*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, (list, tuple)) else ())]:
    depth += 1
  return depth


class _Delegate(gin.config.ParserDelegate):
  """Makes references whose names are known."""

  def __init__(self, forgiving: bool):
    super().__init__()
    self._forgiving = forgiving

  def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
    *scopes, selector = scoped_selector.split("/")
    try:
      found = names.find(selector)
    except CommandError as error:
      if not self._forgiving:
        raise
      return _Unknown(error)
    if len(names.REGISTRY.matching_selectors(selector)) > 1:  # Gin has one of this name too.
      selector = names.shortest(found.selector)
    return super().configurable_reference("/".join([*scopes, selector]), evaluate)


def _statements(text: str, place: Callable[[int], str], forgiving: bool) -> Iterator[Any]:
  """The statements of a gin text, one by one, so that an import can register what the next one names."""
  parser: Any = None
  try:
    parser = config_parser.ConfigParser(text, _Delegate(forgiving))
    while statement := parser.parse_statement():
      yield statement
  except CommandError as error:  # From the delegate; gin has appended lines to it.
    raise CommandError(f"{place(parser.current_token.start[0])}: {str(error).splitlines()[0]}") from None
  except tokenize.TokenError as error:
    raise GinSyntaxError(f"{place(error.args[1][0])}: {error.args[0]}: close the bracket or string") from None
  except SyntaxError as error:
    message = (error.msg or "not gin").splitlines()[0].rstrip(".")
    if token := re.search("Failed to parse token '(.*)'", error.msg or ""):
      message = f"{token[1]} is not a value: quote a string ('{token[1]}'), or mark a macro (%) or a function (@)"
    raise GinSyntaxError(f"{place(error.lineno or 0)}: {message}") from None
  except (ValueError, RecursionError, MemoryError, TypeError) as error:  # Of literals: too many digits, too deep.
    line = parser.current_token.start[0] if parser else 0
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise GinSyntaxError(f"{place(line)}: not a gin value ({reason}): correct it") from None


def _as_today(statement: Any) -> Any:
  """A statement of a saved text, perhaps an earlier version's, as this version says it; None: it is to be dropped."""
  if isinstance(statement, config_parser.ImportStatement) and statement.module == "tasks":
    # `tasks` was the package of shipped tasks. A user's own has a file; a mere folder has not.
    own = importlib.util.find_spec("tasks")
    return statement if own and own.origin else statement._replace(module="gpt4x.tasks")
  if not isinstance(statement, config_parser.BindingStatement):
    return statement
  name = f"{statement.selector}.{statement.arg_name}"
  selector, _, parameter = (EARLIER.get(name, name) or "").rpartition(".")
  return statement._replace(selector=selector, arg_name=parameter) if selector else None


def _import_module(statement: config_parser.ImportStatement) -> None:
  try:
    importlib.import_module(statement.module)
  except CommandError:
    raise
  except (ImportError, SyntaxError, ValueError) as error:
    raise CommandError(
        f"import {statement.module} failed ({error}): start from the folder that holds it, or install it") from None
  gin.parse_config(statement.format())  # So that the configuration's text repeats it.
