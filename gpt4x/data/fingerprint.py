"""Cheap keys by which prepared tokens are found; a key changes whenever the tokens of a seqio task may have changed.

A key covers the source, the vocabularies' content, the preprocessors with all that is bound to them (partials, gin,
closures), and the files of the user's own modules behind them. It cannot see what code reads by itself, such as a file
or the environment. A key that changes without need costs time only, since runs compare the content of their data.
"""

import ast
from collections.abc import Iterator, Mapping
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import pathlib
import re
import sys
import types
from typing import Any, TYPE_CHECKING

import gin
import numpy as np

if TYPE_CHECKING:
  import seqio

# Raise it whenever the token store's files, or what they hold of a task, change.
_VERSION = 1
_PLAIN = (bool, int, float, complex, str, bytes)


def task_key(task: "seqio.Task", split: str) -> str:
  """Sixteen hexadecimal digits that change whenever the examples of `split` may have changed."""
  import seqio

  features = [[name, feature.add_eos, feature.dtype.name, feature.vocabulary]
              for name, feature in task.output_features.items()]
  return fingerprint([_VERSION, seqio.__version__, task.name, split, _source(task.source, split),
                      list(task.preprocessors), features])


def fingerprint(value: Any) -> str:
  """Sixteen hexadecimal digits that tell `value`, code included, from others; the same in every process."""
  return hashlib.sha256(json.dumps(_Describer().describe(value)).encode()).hexdigest()[:16]


def _source(source: "seqio.DataSource", split: str) -> list[Any]:
  import seqio
  import tensorflow as tf

  if hasattr(source, "fingerprint_parts"):
    return [type(source), source.fingerprint_parts()]
  if isinstance(source, seqio.TfdsDataSource):
    loader = source.tfds_dataset
    # seqio has no public way to the builder and the slice behind a split.  pylint: disable=protected-access
    info, tfds_split = loader._get_builder(split).info, loader._map_split(split)
    sizes = sorted((name, split_info.num_examples, split_info.num_bytes) for name, split_info in info.splits.items())
    return [type(source), info.full_name, tfds_split, sizes]
  parts = [type(source), _attributes(source)]
  for path in sorted(source.list_shards(split)) if isinstance(source, seqio.FileDataSource) else ():
    if os.path.exists(path):  # TensorFlow reads other places too, but knows times to the second only.
      parts.append([path, os.stat(path).st_size, os.stat(path).st_mtime_ns])
    else:
      parts.append([path, tf.io.gfile.stat(path).length, tf.io.gfile.stat(path).mtime_nsec])
  return parts


def _vocabulary(vocabulary: "seqio.Vocabulary") -> list[Any]:
  import tensorflow as tf

  parts = [type(vocabulary), vocabulary.vocab_size, vocabulary.extra_ids, vocabulary.eos_id, vocabulary.unk_id]
  path = getattr(vocabulary, "sentencepiece_model_file", None) or getattr(vocabulary, "words_file", None)
  if path is None:
    return [*parts, _attributes(vocabulary)]
  with tf.io.gfile.GFile(path, "rb") as file:
    return [*parts, hashlib.sha256(file.read()).hexdigest()]


class _Describer:
  """Turns values into JSON; goes through each function, class, object and module once."""

  def __init__(self):
    self._seen: dict[int, tuple[int, Any]] = {}  # Holds each object too, lest its id is given to another.
    self._modules: set[str] = set()

  def describe(self, value: Any) -> Any:
    """JSON without addresses or anything else that differs between two runs of the same code."""
    if value is None or isinstance(value, (*_PLAIN, type(...))):
      return repr(value)
    if isinstance(value, (list, tuple)):
      return [self.describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
      return sorted(json.dumps(self.describe(item)) for item in value)
    if isinstance(value, Mapping):
      return [[self.describe(key), self.describe(item)] for key, item in value.items()]
    if isinstance(value, np.ndarray):
      return [value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, types.CodeType):
      return [value.co_code.hex(), value.co_names, self.describe(value.co_consts)]
    if id(value) not in self._seen:
      self._seen[id(value)] = len(self._seen), value
      return [type(value).__name__, self.describe(list(self._parts(value)))]
    return self._seen[id(value)][0]

  def _parts(self, value: Any) -> Iterator[Any]:
    """What makes a function, class or object what it is."""
    if isinstance(value, types.FunctionType) and value.__globals__["__name__"] == "gin.config":
      value = value.__wrapped__  # Gin's wrapper adds bindings only, which follow below.
    if isinstance(value, (types.FunctionType, type)):
      yield from (value.__module__, value.__qualname__, _bindings(value), *self._files(value.__module__))
      if isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__, inspect.getclosurevars(value).nonlocals)
      if _is_own(value.__module__) and not _path(value.__module__):  # In a notebook or a script.
        yield _globals_read(value) if isinstance(value, types.FunctionType) else [value.__bases__, {
            name: member for name, member in vars(value).items() if not name.startswith("__") or callable(member)}]
    elif isinstance(value, types.ModuleType):
      yield from (value.__name__, *self._files(value.__name__))
    elif isinstance(value, functools.partial):
      yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
      yield from (value.__func__, value.__self__)
    elif hasattr(type(value), "vocab_size"):
      yield from _vocabulary(value)
    # The function inside of a functools.cache, a tf.function or a property; the text of a regular expression.
    elif inner := [getattr(value, name) for name in ("__wrapped__", "fget", "pattern") if hasattr(value, name)]:
      yield from inner
    else:
      yield from (type(value), _attributes(value) or re.sub(" at 0x[0-9a-f]+", "", repr(value)))

  def _files(self, name: str) -> Iterator[Any]:
    """The file and gin bindings of a user's own module, and of all such modules that it imports, in functions too."""
    path = _path(name) if _is_own(name) else None
    if path is None or name in self._modules:
      return
    self._modules.add(name)
    source = pathlib.Path(path).read_bytes()
    yield [name, hashlib.sha256(source).hexdigest()]
    members = {} if name.startswith("gpt4x") else getattr(sys.modules.get(name), "__dict__", {})
    for member in members.values():
      if getattr(member, "__module__", None) == name:  # The code as it was loaded: the file may have changed since.
        yield [_bindings(member), getattr(member, "__code__", None)]
    package = name if pathlib.Path(path).stem == "__init__" else name.rpartition(".")[0]
    with contextlib.suppress(SyntaxError, ValueError):  # No Python, or just being edited.
      for imported in _imports(ast.parse(source), package):
        for parent in itertools.accumulate(imported.split("."), "{}.{}".format):
          yield from self._files(parent)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
  """Absolute names of what a module of `package` imports; some are members of modules."""
  for node in ast.walk(tree):
    for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
      name = ".".join(filter(None, (getattr(node, "module", None), alias.name)))
      with contextlib.suppress(ImportError):  # Relative outside of a package.
        yield importlib.util.resolve_name("." * getattr(node, "level", 0) + name, package)


def _path(module: str) -> str | None:
  """The file of a module, imported or not; None for what is typed in or run as a script."""
  with contextlib.suppress(ImportError, ValueError):
    return getattr(importlib.util.find_spec(module), "origin", None)


def _is_own(module: str) -> bool:
  """Whether a module's code may change without a new version: all but Python's own and installed libraries."""
  package = module.partition(".")[0]
  installed = lambda name: {"site-packages", "dist-packages"} & set(pathlib.Path(_path(name) or "").parts)
  # The package first: to find a module in it may import the package.
  return package == "gpt4x" or not (package in sys.stdlib_module_names or installed(package) or installed(module))


def _globals_read(function: types.FunctionType) -> dict[str, Any]:
  """What a function finds by global names."""
  codes = [function.__code__]
  for code in codes:  # Grows by the functions inside of functions.
    codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
  names = sorted({name for code in codes for name in code.co_names} & function.__globals__.keys())
  return {name: function.__globals__[name] for name in names}


def _bindings(configurable: Any) -> dict[str, Any] | None:
  with contextlib.suppress(ValueError):  # Unknown to gin.
    return gin.get_bindings(configurable)


def _attributes(value: Any) -> dict[str, Any]:
  """An object's attributes; of a library's object only plain ones and code, since the rest may differ between runs."""
  return {name: member for name, member in sorted(getattr(value, "__dict__", {}).items())
          if _is_own(type(value).__module__) or callable(member) or isinstance(member, (
              type(None), *_PLAIN, list, tuple, dict, set, frozenset))}
