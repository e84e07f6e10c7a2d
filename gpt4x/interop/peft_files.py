"""Adapters of models of Llama's family as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

Of a kernel [out, in] of torch's, `lora_A` is [r, in] and `lora_B` [out, r]; what they add counts for lora_alpha / r, or
for lora_alpha / sqrt(r) with `use_rslora` (arXiv:2312.03732).
"""

from collections.abc import Iterator, Mapping
import functools
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from gpt4x import storage
from gpt4x.compression.low_rank import LowRank
from gpt4x.errors import one_line, UserError
from gpt4x.interop import hugging_face, json_files, layerwise, tensor_files
from gpt4x.interop.layerwise import Source
from gpt4x.models import saved_model
from gpt4x.models.language_model import LanguageModel

CONFIG, STEM = "adapter_config.json", "adapter_model"
_FILE = f"{STEM}.safetensors"
_PREFIX = "base_model.model."
_LETTERS = {"low": "A", "high": "B"}
# What makes another function of adapters, and the values that leave it as it is.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "lora_bias": (False,),
    "modules_to_save": ([],), "layers_to_transform": ([],), "rank_pattern": ({},), "alpha_pattern": ({},)}


def check(model: Any) -> tuple[LanguageModel, LowRank]:
  """A model of adapters of Llama's family, and its form; a UserError for another one."""
  form = getattr(model, "form", None)
  if not isinstance(form, LowRank):
    raise UserError("--format=peft is for adapters: name a run with LanguageModel.form = @LowRank()")
  hugging_face.check(model.config)
  return model, form


def check_free(directory: str | os.PathLike) -> None:
  """Raises UserError if a file would take the place of something."""
  for name in (_FILE, CONFIG):
    if (path := storage.path(directory) / name).exists():
      raise UserError(f"{path} is there already: choose another directory, or remove it")


def save(directory: str | os.PathLike, model: LanguageModel, params: Any) -> None:
  """Writes adapters, `params` of a model with such a form, into a directory without any; adapter_config.json last."""
  (_, form), theirs = check(model), hugging_face.names(model.config)
  check_free(directory)
  directory, tensors, modules = storage.path(directory), {}, set()
  for name, array in layerwise.split(params).items():
    kernel, _, part = name.rpartition(".")
    module = theirs[kernel].removesuffix(".weight")
    modules.add(module.rpartition(".")[2])
    matrix = array.reshape(-1, form.rank) if part == "low" else array.reshape(form.rank, -1)
    tensors[f"{_PREFIX}{module}.lora_{_LETTERS[part]}.weight"] = np.ascontiguousarray(matrix.T)
  storage.make_directory(directory)
  with storage.new_file(directory / _FILE) as unfinished:
    unfinished.touch()
    mode = unfinished.stat().st_mode
    safetensors.numpy.save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.chmod(mode)  # The library makes it unreadable to others.
  content = {
      "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": form.base, "r": form.rank,
      "lora_alpha": form.alpha, "target_modules": sorted(modules), "lora_dropout": 0.0, "bias": "none",
      "fan_in_fan_out": False, "inference_mode": True, "modules_to_save": None, "use_rslora": False, "use_dora": False}
  storage.write(directory / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def load(directory: str | os.PathLike, base: str) -> tuple[LanguageModel, Any]:
  """Adapters of the model in the directory `base`: a model of them, whose form is a LowRank, and its parameters."""
  path = pathlib.Path(directory) / CONFIG
  c = json_files.read(path)
  for name, values in _ONLY.items():
    if (found := c.get(name)) not in (None, *values):
      raise UserError(f"{path}: {name} = {one_line(repr(found))} has no counterpart here: choose adapters with {name} ="
                      f" {json.dumps(values[0] or None)}")
  rank, alpha = c.get("r", 8), c.get("lora_alpha", 8)
  for name, value, kind in (("r", rank, int), ("lora_alpha", alpha, float)):
    if (words := json_files.mismatch(value, kind)) or value <= 0:
      raise UserError(f"{path}: {name} = {one_line(repr(value))} must be {words or 'above 0'}: correct it")
  alpha = float(alpha) * (math.sqrt(rank) if c.get("use_rslora") else 1)
  file = tensor_files.open_directory(directory, STEM, STEM)
  saved = saved_model.read("--base", base)
  hugging_face.check(saved.model.config)
  theirs = {ours: name.removesuffix(".weight") for ours, name in hugging_face.names(saved.model.config).items()}
  kinds = sorted({ours.rpartition(".")[2] for ours, name in theirs.items()
                  if f"{_PREFIX}{name}.lora_A.weight" in file.shapes})
  if not kinds:
    raise UserError(f"{file.where} has no tensor {_PREFIX}{theirs['layers.0.attention.query']}.lora_A.weight, nor one"
                    " of another kernel: name the adapters of a model of Llama's family")
  form = LowRank(base, rank, alpha, f".*/({'|'.join(kinds)})", saved=saved)
  model = LanguageModel(saved.model.config, form)
  return model, layerwise.load(model, file, dict(_sources(model, theirs, rank)))


def _sources(model: LanguageModel, theirs: Mapping[str, str], rank: int) -> Iterator[tuple[str, Source]]:
  for name, shape in layerwise.shapes(model).items():
    kernel, _, part = name.rpartition(".")
    matrix = (rank, math.prod(shape[:-1])) if part == "low" else (math.prod(shape[1:]), rank)
    yield name, Source((f"{_PREFIX}{theirs[kernel]}.lora_{_LETTERS[part]}.weight",), matrix,
                       functools.partial(_turned, shape))


def _turned(shape: tuple[int, ...], tensor: np.ndarray) -> np.ndarray:
  return tensor.T.reshape(shape)
