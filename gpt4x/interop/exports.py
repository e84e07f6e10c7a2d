"""A model as two files that anything can read: `model.safetensors`, and `config.json` with its configuration.

Parameters are float32, where the run has integers too. They are named layer by layer (`layers.0.attention.query`),
whether or not the model scans over layers.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import safetensors.numpy

from gpt4x import storage
from gpt4x.compression import quantization
from gpt4x.errors import nearest, one_line, UserError
from gpt4x.interop import json_files, layerwise, tensor_files
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.places import CodePlaces

FORMAT, _VERSION = "gpt4x", 1
_CONFIG = "config.json"


def save(directory: str | os.PathLike, language_model: LanguageModel, params: Any) -> None:
  """Writes a model into a directory without one."""
  directory = storage.path(directory)
  for path in (directory / tensor_files.SAFETENSORS, directory / _CONFIG):
    if path.exists():
      raise UserError(f"{path} is there already: choose another directory, or remove it")
  storage.make_directory(directory)
  with storage.new_file(directory / tensor_files.SAFETENSORS) as unfinished:
    unfinished.touch()
    mode = unfinished.stat().st_mode
    arrays = quantization.arrays(params, language_model.declared[1])
    safetensors.numpy.save_file(layerwise.split(arrays), unfinished)
    unfinished.chmod(mode)  # The library makes it unreadable to others.
  content = {"format": FORMAT, "version": _VERSION, "transformer": dataclasses.asdict(language_model.config)}
  storage.write(directory / _CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def load(directory: str | os.PathLike, **config_changes: Any) -> tuple[LanguageModel, Any]:
  """Reads what `save` wrote: (language_model, params), the same bit for bit.

  `config_changes` are fields of TransformerConfig that change nothing about the parameters, e.g. scan_layers or dtype.
  """
  path = pathlib.Path(directory) / _CONFIG
  content = json_files.read(path)
  found = content.get("format"), content.get("version")
  if found != (FORMAT, _VERSION):
    raise UserError(f"{path}: format {one_line(repr(found[0]))}, version {one_line(repr(found[1]))} is not"
                    f" {FORMAT!r}, {_VERSION}: choose what gpt4x export wrote, or the gpt4x that wrote it")
  if not isinstance(fields := content.get("transformer"), dict):
    raise UserError(f"{path} has no field transformer: copy it again")
  for name, cls in (("moe", MoEConfig), ("code_places", CodePlaces)):
    if fields.get(name) is not None:
      fields[name] = _make(path, cls, fields[name])
  config = _make(path, TransformerConfig, fields, **config_changes)
  file = tensor_files.open_directory(directory)
  layerwise.check_size(config, file)
  model = LanguageModel(config, form=None)  # Whatever gin says.
  sources = {name: layerwise.Source((name,), shape) for name, shape in layerwise.shapes(model).items()}
  return model, layerwise.load(model, file, sources)


def _make(path: pathlib.Path, cls: type[Any], fields: Any, **changes: Any) -> Any:
  """The configuration of a class that has these fields in a JSON file, with changes."""
  if not isinstance(fields, dict):
    raise UserError(f"{path} has {one_line(repr(fields))} where the fields of {cls.__name__} belong: copy it again")
  kinds = {field.name: field.type for field in dataclasses.fields(cls)}
  for name in {**fields, **changes}:
    if name not in kinds:
      raise UserError(f"{path}: unknown field {one_line(name)} of {cls.__name__}{nearest(name, kinds)}")
  for name, value in fields.items():
    if words := json_files.mismatch(value, kinds[name]):
      raise UserError(f"{path}: {name} = {one_line(repr(value))} must be {words}: correct it")
  try:
    return cls(**{**fields, **changes})
  except TypeError as error:
    raise UserError(f"{path}: a field of {cls.__name__} is missing or of the wrong kind ({one_line(error)}): correct"
                    " it") from error
  except UserError as error:
    raise UserError(f"{path}: {one_line(error, 400)}") from error
