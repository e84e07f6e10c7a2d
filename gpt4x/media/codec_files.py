"""A codec as a directory: `codec.json`, its configuration, and `codec.safetensors`, its parameters."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gpt4x import run_directory, storage
from gpt4x.configuration import kinds
from gpt4x.errors import nearest, one_line, UserError
from gpt4x.media.codec import LearnedCodec
from gpt4x.media.codec_module import cells_of_zeros, CodecConfig, CodecModule

CONFIG, TENSORS = "codec.json", "codec.safetensors"
_FORMAT, _VERSION = "gpt4x codec", 1


def make(config: CodecConfig, params: Any) -> LearnedCodec:
  """The codec of parameters, as it is once it has been saved and read."""
  named = traverse_util.flatten_dict(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), sep="/")
  tensors = safetensors.numpy.save({name: np.ascontiguousarray(leaf) for name, leaf in sorted(named.items())})
  content = {"format": _FORMAT, "version": _VERSION, "sha256": hashlib.sha256(tensors).hexdigest(),
             "config": dataclasses.asdict(config)}
  return of_files({CONFIG: (json.dumps(content, indent=2) + "\n").encode(), TENSORS: tensors}, "the codec")


def save(directory: str | os.PathLike, codec: LearnedCodec) -> None:
  """Writes a codec into a directory without one."""
  folder = storage.path(directory)
  for name in (TENSORS, CONFIG):
    with storage.errors(folder):
      if (folder / name).exists():
        raise UserError(f"{folder / name} is there already: choose another directory, or remove it")
  storage.make_directory(folder)
  for name in (TENSORS, CONFIG):  # The second tells that all is there.
    storage.write(folder / name, codec.files[name])


def load(directory: str | os.PathLike) -> LearnedCodec:
  """Reads what `save` wrote."""
  folder = storage.path(directory)
  files = {}
  for name in (CONFIG, TENSORS):
    try:
      files[name] = storage.read_bytes(folder / name)
    except (FileNotFoundError, NotADirectoryError):
      with storage.errors(folder):
        is_run = (folder / run_directory.CONFIG).exists()
      if is_run:
        raise UserError(f"{directory} is the directory of a run: write its codec with gpt4x export"
                        f" --model_dir={directory} --output=DIR, and name DIR") from None
      raise UserError(f"no codec in {directory} ({name} is missing): name a directory that gpt4x export has written"
                      " for a codec's run") from None
    except OSError as error:
      raise UserError(f"{folder / name} cannot be read ({error.strerror or one_line(error)}): mend that") from error
  return of_files(files, str(directory))


def of_files(files: Mapping[str, bytes], where: str) -> LearnedCodec:
  """The codec of its two files; `where` they are is for messages alone."""
  config, sha256 = _config(files[CONFIG], where)
  if hashlib.sha256(files[TENSORS]).hexdigest() != sha256:
    raise _damaged(where, f"{TENSORS} is not the file that {CONFIG} was written with")
  try:
    named = safetensors.numpy.load(files[TENSORS])
  except safetensors.SafetensorError as error:
    raise _damaged(where, f"{TENSORS}: {error}") from error
  shapes: Any = jax.eval_shape(CodecModule(config).init, jax.random.key(0), cells_of_zeros(config))
  wanted = traverse_util.flatten_dict(shapes["params"], sep="/")
  for name in {**wanted, **named}:
    there, here = (list(one[name].shape) if name in one else "missing" for one in (named, wanted))
    if there != here:
      raise _damaged(where, f"the tensor {one_line(name)} is {there}, and {here} by {CONFIG}")
  params = traverse_util.unflatten_dict({name: jnp.asarray(leaf, jnp.float32) for name, leaf in named.items()}, sep="/")
  return LearnedCodec(config, params, {name: files[name] for name in (CONFIG, TENSORS)})


def _config(text: bytes, where: str) -> tuple[CodecConfig, Any]:
  """The configuration, and the hash of the other file."""
  try:
    content = json.loads(text)
    found, fields, sha256 = (content["format"], content["version"]), dict(content["config"]), content["sha256"]
  except (ValueError, LookupError, TypeError, RecursionError) as error:
    raise _damaged(where, f"{CONFIG}: {type(error).__name__} {error}") from error
  if found != (_FORMAT, _VERSION):
    raise UserError(f"{where}: {CONFIG} has format {one_line(repr(found[0]))}, version {one_line(repr(found[1]))}, not"
                    f" {_FORMAT!r}, {_VERSION}: choose what gpt4x export wrote, or the gpt4x that wrote it")
  known = {field.name: field.type for field in dataclasses.fields(CodecConfig)}
  for name, value in fields.items():
    if name not in known:
      raise _damaged(where, f"{CONFIG} has an unknown field {one_line(name)}{nearest(name, known)}")
    if words := kinds.mismatch(value, known[name]):
      raise _damaged(where, f"{CONFIG} has {name} = {one_line(repr(value))}, which must be {words}")
  try:
    return CodecConfig(**fields), sha256
  except (TypeError, UserError) as error:
    raise _damaged(where, f"{CONFIG}: {error}") from error


def _damaged(where: str, reason: str) -> UserError:
  return UserError(f"the codec in {where} is damaged ({one_line(reason)}): copy both of its files there again")
