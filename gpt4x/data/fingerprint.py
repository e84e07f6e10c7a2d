"""Cheap keys by which prepared tokens are found again.

A key does not see what a preprocessor reads or imports while it runs, nor the helpers that a notebook defines for it,
nor the later examples of a source that does not tell its changes (`source_content.py`). A key that changes without need
costs only time, since a resumed run compares the content of its tokens.
"""

import contextlib
import functools
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

from gpt4x.data import source_content

if TYPE_CHECKING:
  import seqio

_VERSION = 1  # Raise it whenever the token store's files, or what they hold of a task, change.


def task_key(task: "seqio.Task", split: str) -> str:
  """Sixteen hexadecimal digits that change whenever the examples of `split` are known to have changed."""
  return identify(task, split)[0]


def identify(task: "seqio.Task", split: str) -> tuple[str, str]:
  """(the `task_key`, what of the source may change without another key, for a message; empty if nothing)."""
  import seqio

  source, unseen, parts = task.source, "", [_VERSION, seqio.__version__, task.name, split, type(task.source)]
  if hasattr(source, "fingerprint_parts"):
    parts += [source.fingerprint_parts()]
  elif isinstance(source, seqio.TfdsDataSource):
    info = source.tfds_dataset._get_builder(split).info  # seqio has no public way.  pylint: disable=protected-access
    parts += [info.full_name, {name: (part.num_examples, int(part.num_bytes)) for name, part in info.splits.items()},
              source.tfds_dataset._map_split(split)]  # pylint: disable=protected-access
  elif isinstance(source, seqio.FileDataSource):
    files = files_of(task, split)
    parts += [vars(source), [path for path, *_ in files], [stat for _, *stat in files]]
  else:
    digest, unseen = source_content.read_content(task, split)
    parts += [vars(source), digest]
  features = [(name, one.add_eos, one.dtype.name, one.vocabulary) for name, one in task.output_features.items()]
  return fingerprint([*parts, features, list(task.preprocessors)]), unseen


def files_of(task: "seqio.Task", split: str) -> list[tuple[str, int, int | str]]:
  """Path, size, and time or hash, of each file that a split is read from, if the source tells them."""
  import seqio
  import tensorflow as tf

  if isinstance(task.source, seqio.FileDataSource):
    stats = {path: tf.io.gfile.stat(path) for path in task.source.list_shards(split)}
    return [(path, stat.length, stat.mtime_nsec) for path, stat in stats.items()]
  parts = task.source.fingerprint_parts() if hasattr(task.source, "fingerprint_parts") else {}
  if not isinstance(parts, dict):
    return []
  return [*parts.get("files", ()), *parts.get("validation_files", ())]


def fingerprint(value: Any) -> str:
  """Sixteen hexadecimal digits that tell `value`, code included, from others; the same in every process."""
  with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # Whole arrays.
    return hashlib.sha256(json.dumps(_describe(value, {})).encode()).hexdigest()[:16]


def _describe(value: Any, seen: dict[Any, tuple[int, Any]]) -> Any:
  """JSON without addresses or the order of sets; `seen` numbers the objects and modules described so far."""
  text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
  if isinstance(value, (set, frozenset)):
    return sorted(json.dumps(_describe(item, seen)) for item in value)
  if isinstance(value, dict):
    value = list(value.items())
  elif isinstance(value, types.CodeType):
    value = [value.co_code.hex(), value.co_names, value.co_consts]
  elif hasattr(type(value), "vocab_size"):
    content = getattr(value, "sp_model", None) or "\n".join(getattr(value, "words", ()))
    told = getattr(value, "fingerprint", None)  # Of a content that may be large.
    content = content or (told if isinstance(told, str) else None)
    content = content or (value.to_bytes() if hasattr(value, "to_bytes") else vars(value))
    value = [type(value), value.vocab_size, value.extra_ids, value.eos_id, value.unk_id, content]
  elif callable(value) or text != repr(value) and not isinstance(value, (list, tuple)):
    # An object whose repr is no more than its address is told by its attributes.
    if id(value) in seen:
      return seen[id(value)][0]
    seen[id(value)] = len(seen), value  # Kept, or another object could get its id.
    if isinstance(value, (types.FunctionType, type)):
      parts = [value.__qualname__, _module(value.__module__, seen), _bindings(value)]
      if isinstance(value, types.FunctionType):
        parts += [value.__defaults__, value.__kwdefaults__, inspect.getclosurevars(value).nonlocals]
        parts += [] if hasattr(sys.modules.get(value.__module__), "__file__") else [value.__code__]  # In a notebook.
    else:  # A partial, a method or another object.
      parts = [getattr(value, name, None) for name in ("func", "args", "keywords", "__func__", "__self__", "__dict__")]
      parts += [type(value), getattr(type(value), "__call__", None)]  # noqa: B004
    value = parts
  return [_describe(item, seen) for item in value] if isinstance(value, (list, tuple)) else text


def _module(name: str, seen: dict[Any, tuple[int, Any]]) -> Any:
  """A library's module by its name; a user's own also by its file, its bindings and the modules of its members."""
  module = sys.modules.get(name)
  file = pathlib.Path(getattr(module, "__file__", None) or "")
  if name.partition(".")[0] in sys.stdlib_module_names or not file.name or _is_installed(file) or name in seen:
    return name
  seen[name] = len(seen), module
  parts = [name, file.read_text() if file.suffix == ".py" else hashlib.sha256(file.read_bytes()).hexdigest()]
  members = {} if name.startswith("gpt4x.") else vars(module)  # Our preprocessors need no others.
  for member in [one for key, one in members.items() if key != "__warningregistry__"]:  # Made where a warning came.
    origin = getattr(member, "__name__" if isinstance(member, types.ModuleType) else "__module__", None) or ""
    parts.append(_describe(_bindings(member), seen) if origin == name else _module(origin, seen))
  return parts


def _is_installed(file: pathlib.Path) -> bool:
  """Whether an installer put it there: its folder of packages has that name, or says what is in it."""
  return bool({"site-packages", "dist-packages"} & {*file.parts}) or any(map(_has_distributions, file.parents))


@functools.cache
def _has_distributions(folder: pathlib.Path) -> bool:
  return any(folder.glob("*.dist-info"))


def _bindings(value: Any) -> Any:
  with contextlib.suppress(ValueError, TypeError):  # Unknown to gin, or not hashable.
    return gin.get_bindings(value)
  return None
