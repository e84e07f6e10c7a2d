"""Gin: finds its files, binds what they say, reports a wrong file, name or value, and writes a configuration back.

Gin by itself ignores a macro that nothing reads, suggests nothing for a misspelt name, takes any value for any
parameter, and notices a missing argument only when the function is called. `load` therefore reads statement by
statement, remembers where each binding stands, and checks the whole before anything is built.

    files.py    gin files by name
    names.py    what gin has registered
    reader.py   statements, one by one
    checks.py   all bindings together
    kinds.py    values against annotations
    trust.py    what a saved configuration may import
    objects.py  objects as gin text
    aside.py    gin's state while another configuration is read
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import functools
import importlib
import inspect
import pathlib
from typing import Any, TypeVar

import gin

from gpt4x import run_directory, storage
from gpt4x.configuration import checks, names
from gpt4x.configuration.aside import put_aside
from gpt4x.configuration.files import find, read, SHIPPED
from gpt4x.configuration.reader import Reader
from gpt4x.errors import CommandError, UserError

__all__ = ["bound", "build", "build_of", "config_text", "files_read", "find", "load", "load_run", "modules_imported",
           "placing", "read", "SHIPPED", "text_of"]

T = TypeVar("T")

# Importing these registers every configurable of the project, so that a gin file can name it without an import.
MODULES = tuple(f"gpt4x.{module}" for module in (
    "api.collated", "checkpoints.manager", "compression.low_rank", "compression.quantization",
    "compression.training_products", "data.chat_template", "data.dataset", "data.denoised_text", "data.infilling",
    "data.local_chat", "data.local_graph", "data.local_text", "data.prepared_text", "data.row_mixture",
    "data.vocabularies.marked", "evaluation.likelihood", "evaluation.samples", "experiment",
    "inference.generate", "inference.nearest_neighbours", "inference.retrieval", "media.codec_module",
    "media.local_media", "media.tokens", "models.codec_model", "models.config", "models.language_model",
    "models.places", "objectives.cached_distillation", "objectives.distillation", "objectives.group_relative",
    "objectives.joint_embedding", "objectives.next_token", "objectives.preference", "objectives.reconstruction",
    "partitioning", "posttraining.rewards", "posttraining.rollouts"))
PREPARATION_MODULES = ("gpt4x.preparation.steps",)
TRAINING_MODULES = tuple(f"gpt4x.training.{module}" for module in (
    "config", "optimizers", "sparsity", "trackers.mlflow", "trackers.tensorboard", "trackers.weights_and_biases"))

_read = Reader()  # What was loaded last.


def load(gin_files: Sequence[str] = (), bindings: Sequence[str] = (), text: str | None = None, partial: bool = False,
         needed: Collection[Callable[..., Any] | str] | None = None, where: str = "saved configuration",
         modules: Sequence[str] | None = None) -> None:
  """Replaces the configuration by what a saved text, then files, then single bindings say; the last word counts.

  Args:
    gin_files: paths as `find` takes them.
    bindings: as written after `--gin.`.
    text: what `config_text` returned for an earlier run.
    partial: whether macros and arguments may stay unset, for a command that needs only a part of an experiment.
    needed: the configurables that will be built; None: any, as training does. With it, what they have no use for is
      neither imported nor checked.
    where: a name for the saved text, for messages.
    modules: whose configurables can be named without an import; None: MODULES.

  Raises:
    CommandError: with the place of what is wrong and, for a name, the nearest known one.
  """
  global _read
  paths = [find(name) for name in gin_files]  # Before the imports, which take seconds.
  for module in (*(MODULES if modules is None else modules), *(TRAINING_MODULES if needed is None else ())):
    importlib.import_module(module)
  gin.clear_config()
  reader = Reader(forgiving=needed is not None)
  if text is not None:
    reader.read_saved(text, where)
  for path in paths:
    reader.read_file(path)
  for binding in bindings:
    reader.read_binding(binding)
  if needed is not None:
    checks.keep_only_needed(reader, needed)
  checks.macros_are_read(reader)
  checks.no_circles(reader)
  if not partial:
    checks.macros_are_set(reader)
    checks.arguments_are_set(reader)
  checks.scopes_are_entered(reader)
  checks.values_are_of_their_kind(reader)
  _read = reader


def load_run(model_dir: str, gin_files: Sequence[str] = (), bindings: Sequence[str] = (),
             needed: Collection[Callable[..., Any] | str] | None = None) -> None:
  """Restores the configuration of a model directory, changed by `gin_files` and `bindings`."""
  path = storage.path(model_dir) / run_directory.CONFIG
  try:
    with storage.errors(path):
      found = path.exists()
  except OSError as error:
    raise CommandError(f"{path} cannot be read: {error}") from None
  if not found:
    raise CommandError(f"no run in {model_dir} ({run_directory.CONFIG} is missing): check --model_dir, or start one"
                       " with train --gin_file=FILE")
  if not (text := read(path)).strip():
    raise CommandError(f"{path} is empty: copy it again, or take the text from a checkpoint of the run, whose"
                       " checkpoint.json has it too")
  load(gin_files, bindings, text=text, needed=needed, where=str(path))


def build(configurable: Callable[..., T]) -> T:
  """Calls a configurable with what gin has for it; see `placing` for its errors."""
  registered = names.of_object(configurable)
  assert registered is not None
  if missing := checks.missing_arguments(_read, registered):
    missing = [f"{names.shortest(registered.selector)}.{name}" for name in missing]
    raise CommandError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: give a --gin_file that"
                       f" does so, or --gin.{missing[0]}=VALUE")
  checks.arguments_are_set(_read, registered.selector)
  try:
    with placing():
      return configurable()
  except RecursionError:
    raise CommandError(f"the arguments of {registered.name} need themselves: give one of them a value") from None


def bound(function: Callable) -> Callable:
  """A function with the parameters that gin has for it, for processes that have no configuration."""
  if getattr(inspect.getmodule(function), function.__qualname__, function) is not function:
    raise CommandError(f"@{function.__name__} has a scope, which other processes do not know: write a class, or another"
                       " function")
  try:
    parameters = gin.get_bindings(function)
  except ValueError:  # It is none of gin's.
    return function
  return functools.partial(function, **parameters) if parameters else function


def build_of(model_dir: str, name: str) -> Any:
  """What the configurable of a name makes of the configuration in a model directory; that of this process stays."""
  global _read
  kept = _read
  try:
    with put_aside():
      load_run(model_dir, needed=(name,))
      return build(names.find(name).wrapper)
  finally:
    _read = kept


def text_of(gin_files: Sequence[str], bindings: Sequence[str], text: str, where: str) -> str:
  """The whole text of another configuration, read as `load` reads it; that of this process stays."""
  global _read
  kept = _read
  try:
    with put_aside():
      load(gin_files, bindings, text=text, where=where)
      return config_text()
  finally:
    _read = kept


@contextlib.contextmanager
def placing() -> Iterator[None]:
  """Within it, a UserError about the value of a parameter becomes a CommandError that names the value's place."""
  try:
    yield
  except UserError as error:
    message = str(error).splitlines()[0]  # Gin appends lines about its call.
    if where := checks.place_of_parameter(_read, message.split(" = ")[0]):
      raise CommandError(f"{where}: {message}") from error
    raise (CommandError if isinstance(error, CommandError) else UserError)(message) from error


def modules_imported() -> list[str]:
  """The modules that the files and bindings import, in place of a saved text."""
  return _read.imports


def files_read() -> list[pathlib.Path]:
  """The files that the configuration was read from."""
  return _read.files


def config_text() -> str:
  """The whole configuration as gin text: imports, macros and bindings, with every include resolved."""
  return gin.config_str(max_line_length=100)
