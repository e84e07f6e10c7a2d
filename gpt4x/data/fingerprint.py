"""Fingerprints of what a seqio task yields: two that agree stand for the same examples.

They cover the source (files with sizes and times, or the TFDS name and version), the code of preprocessors and of what
that code calls in modules that are not installed libraries, the arguments bound to it (partials, closures, gin), and
vocabularies by content. What a function reads by itself, such as a file that it opens, no fingerprint can see.
"""

from collections.abc import Iterator, Mapping
import functools
import hashlib
import json
import os
import pathlib
import re
import sys
import types
from typing import TYPE_CHECKING, Any

import gin
import numpy as np

if TYPE_CHECKING:
  import seqio

# Raise it whenever the token store's files, or what they hold of a task, change.
_VERSION = 1


def task_fingerprint(task: "seqio.Task", split: str) -> str:
  """Sixteen hexadecimal digits that change whenever the examples of `split` may have changed."""
  import seqio

  features = [
      [name, feature.add_eos, feature.dtype.name, _vocabulary(feature.vocabulary)]
      for name, feature in task.output_features.items()
  ]
  return fingerprint(
      [_VERSION, seqio.__version__, task.name, split, _source(task.source, split), list(task.preprocessors), features])


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
  if isinstance(source, seqio.FileDataSource):
    for path in sorted(source.list_shards(split)):
      if os.path.exists(path):  # TensorFlow knows times to the second only, but other places than this machine.
        stat = os.stat(path)
        parts.append([path, stat.st_size, stat.st_mtime_ns])
      else:
        stat = tf.io.gfile.stat(path)
        parts.append([path, stat.length, stat.mtime_nsec])
  return parts


def _vocabulary(vocabulary: "seqio.Vocabulary") -> list[Any]:
  import tensorflow as tf

  parts = [type(vocabulary), vocabulary.vocab_size, vocabulary.extra_ids, vocabulary.eos_id, vocabulary.unk_id]
  path = getattr(vocabulary, "sentencepiece_model_file", None) or getattr(vocabulary, "words_file", None)
  if path is None:
    return parts + [_attributes(vocabulary)]
  with tf.io.gfile.GFile(path, "rb") as file:
    return parts + [hashlib.sha256(file.read()).hexdigest()]


class _Describer:
  """Turns values into JSON, as one traversal that goes through functions, classes and objects once each."""

  def __init__(self):
    self._seen: dict[int, tuple[int, Any]] = {}  # Holds each object too, lest its id is given to another.

  def describe(self, value: Any) -> Any:
    """JSON without addresses, line numbers or anything else that differs between two runs of the same code."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type(...))):
      return repr(value)
    if isinstance(value, (list, tuple)):
      return [self.describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
      return ["set", *sorted(repr(self.describe(item)) for item in value)]
    if isinstance(value, Mapping):
      return ["mapping", *([self.describe(key), self.describe(item)] for key, item in value.items())]
    if isinstance(value, np.ndarray):
      return ["array", value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, re.Pattern):
      return ["pattern", repr(value.pattern), value.flags]
    if isinstance(value, types.CodeType):
      return ["code", value.co_code.hex(), value.co_names, self.describe(value.co_consts)]
    if id(value) in self._seen:
      return ["again", self._seen[id(value)][0]]
    self._seen[id(value)] = len(self._seen), value
    if isinstance(value, functools.partial):
      return ["partial", self.describe([value.func, value.args, value.keywords])]
    if isinstance(value, (types.MethodType, staticmethod, classmethod)):
      return ["method", self.describe([value.__func__, getattr(value, "__self__", None)])]
    if isinstance(value, property):
      return ["property", self.describe(value.fget)]
    if isinstance(value, types.FunctionType):
      return self._function(value)
    if isinstance(value, type):
      return self._class(value)
    return self._object(value)

  def _function(self, function: types.FunctionType) -> Any:
    if function.__globals__["__name__"] == "gin.config":
      function = function.__wrapped__  # The wrapper adds bindings only, and those stand below.
    cells = [_content(cell) for cell in function.__closure__ or ()]
    parts = [function.__code__, function.__defaults__, function.__kwdefaults__, cells, _bindings(function)]
    if _is_own(function.__globals__["__name__"]):
      parts += _globals_read(function)
    return ["function", function.__qualname__, self.describe(parts)]

  def _class(self, cls: type) -> Any:
    parts = [_bindings(cls)]
    if _is_own(cls.__module__):
      parts += [cls.__bases__, {name: value for name, value in sorted(vars(cls).items()) if _is_member(name, value)}]
    return ["class", cls.__module__, cls.__qualname__, self.describe(parts)]

  def _object(self, value: Any) -> Any:
    cls = self.describe(type(value))
    if hasattr(type(value), "vocab_size"):
      return [cls, self.describe(_vocabulary(value))]
    if hasattr(value, "__wrapped__"):  # functools.cache, tf.function.
      return [cls, self.describe(value.__wrapped__)]
    text = repr(value)
    if _is_own(type(value).__module__) or " at 0x" in text:
      return [cls, self.describe(_attributes(value))]
    return [cls, text]


def _globals_read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
  """What the code of `function` finds by global names, and by names in the user's own modules."""
  names = sorted(set(_names(function.__code__)))
  for name in names:
    value = function.__globals__.get(name)
    if not isinstance(value, types.ModuleType):
      yield name, value
    elif _is_own(value.__name__):
      yield from ((f"{name}.{member}", vars(value)[member]) for member in names if member in vars(value))


def _names(code: types.CodeType) -> Iterator[str]:
  yield from code.co_names
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


def _attributes(value: Any) -> dict[str, Any]:
  """An object's attributes; of a library's object only plain ones and code, since the rest may differ between runs."""
  return {
      name: member for name, member in sorted(getattr(value, "__dict__", {}).items())
      if _is_own(type(value).__module__) or isinstance(member, _PLAIN) or callable(member)
  }


_PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)


def _is_member(name: str, member: Any) -> bool:
  if name.startswith("__"):
    return isinstance(member, types.FunctionType)
  return isinstance(member, (*_PLAIN, types.FunctionType, staticmethod, classmethod, property))


def _bindings(configurable: Any) -> dict[str, Any] | None:
  try:
    return gin.get_bindings(configurable)
  except ValueError:  # Not known to gin.
    return None


def _content(cell: types.CellType) -> Any:
  try:
    return cell.cell_contents
  except ValueError:  # Empty.
    return None


def _is_own(module_name: str) -> bool:
  """Whether a module's code may change without a new version: all but Python's own and installed libraries."""
  package = module_name.partition(".")[0]
  path = getattr(sys.modules.get(module_name), "__file__", None) or ""
  installed = {"site-packages", "dist-packages"} & set(pathlib.Path(path).parts)
  return package in ("gpt4x", "tasks") or package not in sys.stdlib_module_names and not installed
