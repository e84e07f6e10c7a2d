"""A model as two files that anything can read: `model.safetensors`, and `config.json` with its configuration.

Parameters are float32, named layer by layer (`layers.0.attention.query`) whether or not the model scans over layers.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import safetensors.numpy

from gpt4x.errors import nearest, UserError
from gpt4x.interop import layerwise, tensor_files
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel

_FORMAT, _VERSION = "gpt4x", 1
_CONFIG = "config.json"


def save(directory: str | os.PathLike, language_model: LanguageModel, params: Any) -> None:
  """Writes a model into a directory without one."""
  directory = pathlib.Path(directory)
  for path in (directory / tensor_files.SAFETENSORS, directory / _CONFIG):
    if path.exists():
      raise UserError(f"{path} is there already: choose another directory, or remove it")
  directory.mkdir(parents=True, exist_ok=True)
  unfinished = directory / f"{tensor_files.SAFETENSORS}.{os.getpid()}"
  unfinished.touch()
  mode = unfinished.stat().st_mode
  safetensors.numpy.save_file(layerwise.split(params), unfinished)
  unfinished.chmod(mode)  # The library makes it unreadable to others.
  unfinished.replace(directory / tensor_files.SAFETENSORS)
  content = {"format": _FORMAT, "version": _VERSION, "transformer": dataclasses.asdict(language_model.config)}
  (directory / _CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def load(directory: str | os.PathLike, **config_changes: Any) -> tuple[LanguageModel, Any]:
  """Reads what `save` wrote: (language_model, params), the same bit for bit.

  `config_changes` are fields of TransformerConfig that change nothing about the parameters, e.g. scan_layers or dtype.
  """
  path = pathlib.Path(directory) / _CONFIG
  content = tensor_files.read_json(path)
  if content.get("format") != _FORMAT or content.get("version") != _VERSION:
    raise UserError(f"{path}: format {content.get('format')!r}, version {content.get('version')!r} is not"
                    f" {_FORMAT!r}, {_VERSION}: choose what gpt4x export wrote, or the gpt4x that wrote it")
  known = {field.name for field in dataclasses.fields(TransformerConfig)}
  if not isinstance(fields := content.get("transformer"), dict):
    raise UserError(f"{path} has no field transformer: copy it again")
  for name in [name for name in {**fields, **config_changes} if name not in known]:
    raise UserError(f"{path}: unknown field {name} of TransformerConfig{nearest(name, known)}")
  try:
    if fields.get("moe"):
      fields["moe"] = MoEConfig(**fields["moe"])
    model = LanguageModel(TransformerConfig(**{**fields, **config_changes}))
  except TypeError as error:
    raise UserError(f"{path}: a field of transformer has a value of the wrong kind ({error}): correct it") from error
  sources = {name: layerwise.Source((name,), shape) for name, shape in layerwise.shapes(model).items()}
  return model, layerwise.load(model, tensor_files.open_directory(directory), sources)
