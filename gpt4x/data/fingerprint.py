"""Fingerprints of what a seqio task yields: two that agree stand for the same examples.

They cover the source (files with sizes and times, or the TFDS version), the code of preprocessors and of what they call
in the user's own modules, the arguments bound to them (partials, closures, gin), and vocabularies. What a function
reads by itself, such as a file that it opens or a web page, no fingerprint can see.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
import hashlib
import json
import pathlib
import re
import sys
import types
from typing import Any

import gin
import numpy as np

# Part of each fingerprint: raise it when the token store's format, or what it holds of a task, changes.
_VERSION = 1


def task_fingerprint(task: "seqio.Task", split: str) -> str:
  """Sixteen hexadecimal digits that change whenever the examples of `split` may have changed."""
  import seqio

  features = {
      name: [feature.add_eos, repr(feature.dtype), _vocabulary(feature.vocabulary)]
      for name, feature in task.output_features.items()
  }
  parts = [_VERSION, seqio.__version__, task.name, split, _source(task.source, split), list(task.preprocessors), features]
  return fingerprint(parts)


def fingerprint(value: Any) -> str:
  """Sixteen hexadecimal digits that tell `value`, code included, from others; equal in every process."""
  text = json.dumps(_describe(value, {}), sort_keys=True)
  return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _source(source: "seqio.DataSource", split: str) -> Any:
  import seqio
  import tensorflow as tf

  if hasattr(source, "fingerprint_parts"):
    return [_name(type(source)), source.fingerprint_parts()]
  parts = [_name(type(source)), _attributes(source)]
  if isinstance(source, seqio.TfdsDataSource):
    loader = source.tfds_dataset
    parts = [_name(type(source)), loader.resolved_tfds_name(split) or loader.get_split_params(split)]
    builder = loader._get_builder(split)  # No public way to the builder of a split.  pylint: disable=protected-access
    parts += [builder.info.full_name, loader._map_split(split)]  # pylint: disable=protected-access
    parts += [sorted((name, info.num_examples, info.num_bytes) for name, info in builder.info.splits.items())]
  elif isinstance(source, seqio.FileDataSource):
    stats = [(path, tf.io.gfile.stat(path)) for path in sorted(source.list_shards(split))]
    parts += [[path, stat.length, stat.mtime_nsec] for path, stat in stats]
  return parts


def _vocabulary(vocabulary: "seqio.Vocabulary") -> Any:
  """By content: the same model file elsewhere is the same vocabulary, another file in the same place is not."""
  import tensorflow as tf

  parts = [_name(type(vocabulary)), vocabulary.vocab_size, vocabulary.extra_ids, vocabulary.eos_id, vocabulary.unk_id]
  path = getattr(vocabulary, "sentencepiece_model_file", None)
  if path is not None:
    with tf.io.gfile.GFile(path, "rb") as file:
      parts.append(hashlib.sha256(file.read()).hexdigest())
  return parts


def _describe(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
  """`value` as JSON. `seen` numbers functions, classes and objects on the way, so that cycles end."""
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, (float, complex, bytes, range, slice, type(...))):
    return repr(value)
  if isinstance(value, (list, tuple)):
    return [_describe(item, seen) for item in value]
  if isinstance(value, (set, frozenset)):
    return ["set", sorted(json.dumps(_describe(item, seen), sort_keys=True) for item in value)]
  if isinstance(value, Mapping):
    return ["map", [[_describe(key, seen), _describe(item, seen)] for key, item in value.items()]]
  if isinstance(value, np.ndarray):
    return ["array", value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
  if isinstance(value, re.Pattern):
    return ["pattern", repr(value.pattern), value.flags]
  if isinstance(value, types.CodeType):
    return [value.co_code.hex(), list(value.co_names), _describe(value.co_consts, seen)]

  if id(value) in seen:
    return ["again", seen[id(value)][0]]
  seen[id(value)] = len(seen), value  # Holding the value keeps its id from being used again.
  describe = functools.partial(_describe, seen=seen)
  if isinstance(value, functools.partial):
    return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
  if isinstance(value, types.MethodType):
    return ["method", describe(value.__func__), describe(value.__self__)]
  if isinstance(value, types.FunctionType):
    return _function(value, describe)
  if isinstance(value, type):
    members = sorted(vars(value).items()) if _is_own(value.__module__) else []
    return [_name(value), *([name, describe(member)] for name, member in members if _is_code(member)), _bindings(value, describe)]
  if hasattr(type(value), "vocab_size"):
    return _vocabulary(value)
  if _is_own(type(value).__module__):
    return [describe(type(value)), describe(_attributes(value))]
  # Objects of libraries, such as a dtype or a path: told by their text, unless that is only an address.
  text = repr(value)
  return [_name(type(value)), "" if " at 0x" in text else text]


def _function(function: types.FunctionType, describe: Callable[[Any], Any]) -> Any:
  if function.__globals__["__name__"] == "gin.config":
    function = function.__wrapped__  # Gin's wrapper has no content but the bindings.
  cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
  parts = [function.__qualname__, describe(function.__code__), describe(function.__defaults__)]
  parts += [describe(function.__kwdefaults__), describe(cells), _bindings(function, describe)]
  if _is_own(function.__globals__["__name__"]):
    parts += [[name, describe(value)] for name, value in _globals_read(function)]
  return parts


def _globals_read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
  """Global names in the code of `function`, nested functions too, and what own modules among them contribute."""
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


def _bindings(configurable: Any, describe: Callable[[Any], Any]) -> Any:
  try:
    return describe(gin.get_bindings(configurable))
  except ValueError:  # Not known to gin.
    return None


def _attributes(value: Any) -> dict[str, Any]:
  return dict(sorted(getattr(value, "__dict__", {}).items()))


def _is_code(member: Any) -> bool:
  return isinstance(member, (types.FunctionType, staticmethod, classmethod, property, int, str, tuple))


def _is_empty(cell: types.CellType) -> bool:
  try:
    return cell.cell_contents is None
  except ValueError:
    return True


def _is_own(module_name: str) -> bool:
  """Whether a module is the user's or this project's; libraries are told by name and version alone."""
  package = module_name.partition(".")[0]
  if package in ("gpt4x", "tasks") or package in sys.stdlib_module_names:
    return package not in sys.stdlib_module_names
  path = getattr(sys.modules.get(package), "__file__", None) or ""
  return not {"site-packages", "dist-packages"} & set(pathlib.Path(path).parts)


def _name(value: type) -> str:
  return f"{value.__module__}.{value.__qualname__}"
