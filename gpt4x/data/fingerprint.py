"""Cheap keys by which prepared tokens are found again.

A key does not see what a preprocessor reads or imports while it runs, nor the helpers that a notebook defines for it. A
key that changes without need costs only time: whether a run may resume is decided by the content of its tokens.
"""

import contextlib
import hashlib
import inspect
import json
import pathlib
import re
import sys
import types
from typing import Any, TYPE_CHECKING

import gin
import numpy as np

if TYPE_CHECKING:
  import seqio

_VERSION = 1  # Raise it whenever the token store's files, or what they hold of a task, change.


def task_key(task: "seqio.Task", split: str) -> str:
  """Sixteen hexadecimal digits that change whenever the examples of `split` may have changed."""
  import seqio
  import tensorflow as tf

  source, parts = task.source, [_VERSION, seqio.__version__, task.name, split, type(task.source)]
  if hasattr(source, "fingerprint_parts"):
    parts += [source.fingerprint_parts()]
  elif isinstance(source, seqio.TfdsDataSource):
    info = source.tfds_dataset._get_builder(split).info  # seqio has no public way.  pylint: disable=protected-access
    parts += [info.full_name, {name: (part.num_examples, part.num_bytes) for name, part in info.splits.items()},
              source.tfds_dataset._map_split(split)]  # pylint: disable=protected-access
  else:
    paths = source.list_shards(split) if isinstance(source, seqio.FileDataSource) else []
    parts += [vars(source), [(path, tf.io.gfile.stat(path).length, tf.io.gfile.stat(path).mtime_nsec) for path in paths]]
  features = [(name, feature.add_eos, feature.dtype.name, feature.vocabulary)
              for name, feature in task.output_features.items()]
  return fingerprint([*parts, features, list(task.preprocessors)])


def fingerprint(value: Any) -> str:
  """Sixteen hexadecimal digits that tell `value`, code included, from others; the same in every process."""
  with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # An array's repr is to be whole.
    return hashlib.sha256(json.dumps(_describe(value, {})).encode()).hexdigest()[:16]


def _describe(value: Any, seen: dict[Any, int]) -> Any:
  """JSON without addresses or the order of sets; `seen` numbers the objects and modules described so far."""
  text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
  if isinstance(value, (set, frozenset)):
    return sorted(json.dumps(_describe(item, seen)) for item in value)
  if isinstance(value, dict):
    value = list(value.items())
  elif isinstance(value, types.CodeType):
    value = [value.co_code.hex(), value.co_names, value.co_consts]
  elif hasattr(type(value), "vocab_size"):
    content = getattr(value, "sp_model", None) or "\n".join(getattr(value, "words", ())) or vars(value)
    value = [type(value), value.vocab_size, value.extra_ids, value.eos_id, value.unk_id, content]
  elif callable(value) or text != repr(value) and not isinstance(value, (list, tuple)):
    # An object whose repr is no more than its address is told by its attributes.
    if id(value) in seen:
      return seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, (types.FunctionType, type)):
      # A notebook has no file, so its functions are told by their code.
      code = None if hasattr(sys.modules.get(value.__module__), "__file__") else getattr(value, "__code__", None)
      closure = inspect.getclosurevars(value).nonlocals if isinstance(value, types.FunctionType) else None
      defaults = [getattr(value, name, None) for name in ("__defaults__", "__kwdefaults__")]
      value = [value.__qualname__, _module(value.__module__, seen), _bindings(value), code, closure, defaults]
    else:  # A partial, a method or another object.
      parts = [getattr(value, name, None) for name in ("func", "args", "keywords", "__func__", "__self__", "__dict__")]
      value = [type(value), getattr(type(value), "__call__", None), parts]
  return [_describe(item, seen) for item in value] if isinstance(value, (list, tuple)) else text


def _module(name: str, seen: dict[Any, int]) -> Any:
  """The name of a library's module; a user's own with its file and bindings, and in turn what its members come from."""
  module = sys.modules.get(name)
  file = pathlib.Path(getattr(module, "__file__", None) or "")
  installed = name.partition(".")[0] in sys.stdlib_module_names or {"site-packages", "dist-packages"} & {*file.parts}
  if installed or not file.name or name in seen:
    return name
  seen[name] = len(seen)
  members = [] if name.startswith("gpt4x.") else list(vars(module).values())  # Our preprocessors stand alone.
  origins = [getattr(member, "__name__" if isinstance(member, types.ModuleType) else "__module__", None) or ""
             for member in members]
  return [name, file.read_text(), [_bindings(member) for member, origin in zip(members, origins) if origin == name],
          [_module(origin, seen) for origin in sorted(set(origins))]]


def _bindings(value: Any) -> Any:
  with contextlib.suppress(ValueError, TypeError):  # Unknown to gin, or not hashable.
    return gin.get_bindings(value)
  return None
