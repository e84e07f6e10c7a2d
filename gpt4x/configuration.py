"""Gin: finds its files, binds what they say, and reports a wrong file or name.

Gin by itself ignores a macro that nothing reads, suggests nothing for a misspelt name, and notices a missing argument
only when the function is called. `load` therefore reads statement by statement, remembers where each binding stands,
and checks the whole before anything is built.
"""

from collections.abc import Callable, Iterator, Sequence
import difflib
import importlib.util
import inspect
import os
import pathlib
import re
import tokenize
from typing import Any

import gin
from gin import config_parser

from gpt4x import run_directory
from gpt4x.errors import CommandError, nearest

# Importing these registers every configurable of the project, so that a gin file can name it without an import.
MODULES = tuple(f"gpt4x.{module}" for module in (
    "data.local_text", "data.dataset", "models.config", "models.language_model", "partitioning",
    "objectives.next_token", "checkpoints.manager", "experiment", "evaluation.likelihood", "inference.generate",
    "training.config", "training.optimizers"))
SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "gin_configs"  # Beside this package, installed or not.
# Parameters by their names in the saved text of earlier versions, and their names now; None: they are gone.
_EARLIER = {"evaluate.experiment": None, "generate.experiment": None, "held_out_text.experiment": None,
            "LanguageModel.z_loss": "NextToken.z_loss"}
_MACRO = "gin.macro"
_REGISTRY = gin.config._REGISTRY  # There is no public way to list the names.  pylint: disable=protected-access


def load(gin_files: Sequence[str] = (), bindings: Sequence[str] = (), text: str | None = None,
         partial: bool = False) -> None:
  """Replaces the configuration by what a saved text, then files, then single bindings say; the last word counts.

  `gin_files` are paths as `find` takes them; `bindings` are written as after `--gin.`; `text` is what `config_text`
  returned for an earlier run. With `partial`, macros and arguments may stay unset, for a command that needs only a part
  of an experiment. Raises CommandError with the place of what is wrong and, for a name, the nearest known one.
  """
  paths = [find(name) for name in gin_files]  # Before the imports, which take seconds.
  for module in MODULES:
    importlib.import_module(module)
  gin.clear_config()
  reader = _Reader()
  if text is not None:
    reader.read_text(text, lambda line: f"saved configuration, line {line}", saved=True)
    reader.macros_read |= reader.macros_set()  # What read a macro may have been overridden, and so not saved.
  for path in paths:
    reader.read_file(path)
  for binding in bindings:
    reader.read_binding(binding)
  reader.check_macros_are_read()
  if not partial:
    reader.check_macros_are_set()
    reader.check_arguments_are_set()


def load_run(model_dir: str, gin_files: Sequence[str] = (), bindings: Sequence[str] = ()) -> None:
  """Restores the configuration of a model directory, changed by `gin_files` and `bindings`."""
  path = pathlib.Path(model_dir) / run_directory.CONFIG
  if not path.exists():
    raise CommandError(f"no run in {model_dir} ({run_directory.CONFIG} is missing): check --model_dir, or start one"
                       " with train --gin_file=FILE")
  load(gin_files, bindings, text=path.read_text(encoding="utf-8"))


def config_text() -> str:
  """The whole configuration as gin text: imports, macros and bindings, with every include resolved."""
  return gin.config_str(max_line_length=100)


def find(name: str) -> pathlib.Path:
  """The gin file `name`: an absolute path, or one below the current directory or else the shipped `gin_configs/`."""
  for folder in (pathlib.Path(), SHIPPED):
    if (folder / name).is_file():
      return folder / name
  shipped = sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.gin"))
  searched = "" if os.path.isabs(name) else f" in {os.getcwd()} or {SHIPPED}"
  raise CommandError(f"gin file {name} not found{searched}{nearest(name, shipped)}")


class _Reader:
  """Binds statements as it reads them, and remembers where each stands."""

  def __init__(self):
    self.bindings: dict[tuple[str, str, str], tuple[Any, str]] = {}  # (scope, selector, parameter): (value, place).
    self.macros_read: set[str] = set()  # Every macro that a statement refers to, even one overridden later.
    self._open_files: list[pathlib.Path] = []

  def macros_set(self) -> set[str]:
    return {scope for scope, selector, _ in self.bindings if selector == _MACRO}

  def read_file(self, path: pathlib.Path) -> None:
    if path in self._open_files:
      raise CommandError(f"{path} includes itself: remove one of {', '.join(map(str, self._open_files))}")
    try:
      text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
      raise CommandError(f"gin file {path} cannot be read: {error}") from None
    self._open_files.append(path)
    self.read_text(text, lambda line: f"{path}:{line}")
    self._open_files.pop()

  def read_binding(self, binding: str) -> None:
    name, _, value = binding.partition("=")
    if not re.fullmatch(r"\w+([./]\w+)*", name) or not value:
      raise CommandError(f"--gin.{binding}: write --gin.NAME=VALUE")
    try:
      self.read_text(f"{name} = {value}", lambda _: f"--gin.{binding}")
    except _GinSyntaxError:
      raise CommandError(
          f"--gin.{binding}: {value} is not a gin value; if it is a string, it needs quotes of its own:"
          f" --gin.{name}=\"'{value}'\"") from None

  def read_text(self, text: str, place: Callable[[int], str], saved: bool = False) -> None:
    for statement in _statements(text, place):
      if saved and not (statement := _as_today(statement)):
        continue
      where = place(statement.location.line_num)
      included = None
      try:
        if isinstance(statement, config_parser.IncludeStatement):
          included = find(statement.filename)
        elif isinstance(statement, config_parser.ImportStatement):
          _import_module(statement)
        elif isinstance(statement, config_parser.BlockDeclaration):
          _configurable(statement.selector)
        else:
          self._bind(statement, where)
      except CommandError as error:
        raise CommandError(f"{where}: {error}") from None
      if included:
        self.read_file(included)

  def _bind(self, statement: config_parser.BindingStatement, where: str) -> None:
    scope, selector, parameter, value, _ = statement
    if parameter:
      configurable = _configurable(selector)
      known = _parameters(configurable)
      if parameter not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise CommandError(f"{selector} has no parameter {parameter}{nearest(parameter, known)}")
      selector = configurable.selector
    else:
      scope, selector, parameter = f"{scope}/{selector}" if scope else selector, _MACRO, "value"
    try:
      gin.bind_parameter((scope, selector, parameter), value)
    except ValueError as error:  # A parameter that its configurable withholds from gin.
      raise CommandError(str(error)) from None
    self.bindings[scope, selector, parameter] = value, where
    self.macros_read.update(_macros(value))

  def check_macros_are_read(self) -> None:
    for (scope, selector, _), (_, where) in self.bindings.items():
      if selector == _MACRO and scope not in self.macros_read:
        raise CommandError(f"{where}: nothing reads the macro {scope}{nearest(scope, self.macros_read)}")

  def check_macros_are_set(self) -> None:
    unset: dict[str, str] = {}  # Name: the first place that needs it.
    for (scope, selector, parameter), (value, where) in self.bindings.items():
      for macro in _macros(value):
        if macro not in self.macros_set():
          unset.setdefault(macro, where)
      if "%gin.REQUIRED" in map(repr, _references(value)):
        path = f"{scope}/" if scope else ""
        unset[scope if selector == _MACRO else f"{path}{_REGISTRY.minimal_selector(selector)}.{parameter}"] = where
    for name, where in unset.items():
      for near in difflib.get_close_matches(name, self.macros_set() - set(unset), n=1, cutoff=0.9):
        raise CommandError(f"{where}: {name} is not set: did you mean {near}?")
    if unset:
      name, where = next(iter(unset.items()))
      raise CommandError(
          f"{where}: {', '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set: give a --gin_file that does so,"
          f" or --gin.{name}=VALUE")

  def check_arguments_are_set(self) -> None:
    for value, where in self.bindings.values():
      for reference in _references(value):
        configurable = reference.configurable
        if configurable.selector == _MACRO or not reference.evaluate or configurable.is_method:
          continue  # The caller may have the arguments.
        # A binding in any scope counts, for the scopes around a call are known only when it happens.
        bound = {parameter for _, selector, parameter in self.bindings if selector == configurable.selector}
        missing = [name for name, parameter in _parameters(configurable).items()
                   if name not in bound and any(parameter.default is it for it in (parameter.empty, gin.REQUIRED))
                   and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
        if missing:
          raise CommandError(f"{where}: {configurable.name} needs a value for {', '.join(missing)}: set"
                             f" {configurable.name}.{missing[0]}")


class _GinSyntaxError(CommandError):
  """Text that is not gin."""


class _Delegate(gin.config.ParserDelegate):
  """Makes references whose names are known."""

  def configurable_reference(self, scoped_selector: str, evaluate: bool) -> gin.config.ConfigurableReference:
    _configurable(scoped_selector.rsplit("/", 1)[-1])
    return super().configurable_reference(scoped_selector, evaluate)


def _statements(text: str, place: Callable[[int], str]) -> Iterator[Any]:
  """The statements of a gin text, one by one, so that an import can register what the next one names."""
  parser: Any = None
  try:
    parser = config_parser.ConfigParser(text, _Delegate())
    while statement := parser.parse_statement():
      yield statement
  except CommandError as error:  # From the delegate; gin has appended lines to it.
    raise CommandError(f"{place(parser.current_token.start[0])}: {str(error).splitlines()[0]}") from None
  except tokenize.TokenError as error:
    raise _GinSyntaxError(f"{place(error.args[1][0])}: {error.args[0]}: close the bracket or string") from None
  except SyntaxError as error:
    message = error.msg.splitlines()[0].rstrip(".")
    if token := re.search("Failed to parse token '(.*)'", error.msg):
      message = f"{token[1]} is not a value: quote a string ('{token[1]}'), or mark a macro (%) or a function (@)"
    raise _GinSyntaxError(f"{place(error.lineno or 0)}: {message}") from None


def _as_today(statement: Any) -> Any:
  """A statement of a saved text, perhaps an earlier version's, as this version says it; None: it is to be dropped."""
  if isinstance(statement, config_parser.ImportStatement) and statement.module == "tasks":
    # `tasks` was the package of shipped tasks. A user's own has a file; a mere folder has not.
    own = importlib.util.find_spec("tasks")
    return statement if own and own.origin else statement._replace(module="gpt4x.tasks")
  if not isinstance(statement, config_parser.BindingStatement):
    return statement
  name = f"{statement.selector}.{statement.arg_name}"
  selector, _, parameter = (_EARLIER.get(name, name) or "").rpartition(".")
  return statement._replace(selector=selector, arg_name=parameter) if selector else None


def _import_module(statement: config_parser.ImportStatement) -> None:
  if statement.module.startswith("__gin__."):
    raise CommandError("dynamic registration is not used here: remove this line, and name configurables directly")
  try:
    importlib.import_module(statement.module)
  except ImportError as error:
    raise CommandError(
        f"import {statement.module} failed ({error}): start from the folder that holds it, or install it") from None
  gin.parse_config(statement.format())  # So that `config_text` repeats it.


def _configurable(selector: str) -> gin.config.Configurable:
  matches = _REGISTRY.matching_selectors(selector)
  if len(matches) > 1:
    raise CommandError(f"{selector} may be any of {', '.join(sorted(matches))}: write more of the name")
  if not matches:
    known = {configurable.name for _, configurable in _REGISTRY.items() if configurable.module != "gin"}
    raise CommandError(f"unknown configurable {selector}{nearest(selector.rsplit('.', 1)[-1], known)}")
  return _REGISTRY[matches[0]]


def _parameters(configurable: gin.config.Configurable) -> dict[str, inspect.Parameter]:
  return dict(inspect.signature(configurable.wrapped).parameters)


def _references(value: Any) -> Iterator[gin.config.ConfigurableReference]:
  return gin.config.iterate_references({"": value})


def _macros(value: Any) -> list[str]:
  return ["/".join(ref.scopes) for ref in _references(value) if ref.configurable.selector == _MACRO]
