"""A model directory that reads bytes of text, with random parameters: nothing is trained, and little compiled."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
import seqio

from gpt4x import run_directory
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import vocabularies
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

SIZES: dict[str, Any] = dict(
    vocab_size=260, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=16, memory_length=16, eval_memory_length=32,
    norm_position="pre", scan_layers=False)


def write_texts(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  return path


def write(directory: pathlib.Path, step: int = 0, scale: float = 1.0, **bindings: Any) -> LanguageModel:
  """Writes the directory, or a further checkpoint of it; gin's `bindings` have __ for a dot."""
  model = LanguageModel(TransformerConfig(**SIZES))
  vocabularies.save(seqio.ByteVocabulary(), directory)
  fields = {name: value for name, value in dataclasses.asdict(model.config).items()
            if value != getattr(TransformerConfig, name, None)}
  bindings = {"DatasetConfig__mixture_or_task_name": "local_text_bytes", "DatasetConfig__batch_size": 2,
              "DatasetConfig__task_feature_lengths": {"targets": 16}} | bindings
  (directory / run_directory.CONFIG).write_text("\n".join([
      "import gpt4x.tasks",
      "Experiment.model = @LanguageModel()", "LanguageModel.config = @TransformerConfig()",
      *(f"TransformerConfig.{name} = {value!r}" for name, value in fields.items()),
      "Experiment.dataset = @DatasetConfig()",
      *(f"{name.replace('__', '.')} = {value!r}" for name, value in bindings.items()), ""]))
  checkpoints = Checkpoints(str(directory), CheckpointConfig())
  checkpoints.save(step, {"params": params(model, scale)}, data_state={}, seed=0, config_text="", wait=True)
  checkpoints.close()
  return model


def whole(model: LanguageModel, params: Any, tokens: Any, layer: str) -> tuple[np.ndarray, np.ndarray]:
  """Logits [L, V] and states [L, D] of a document's input tokens, run whole; of all lengths one program."""
  padded = np.pad(np.asarray(tokens, np.int32), (0, 40 - len(tokens)))[None]  # None sees what is behind it.
  logits, states = _compiled(model.config, layer)(params, padded)
  return np.asarray(logits)[:len(tokens)], np.asarray(states)[:len(tokens)]


@functools.cache
def _compiled(config: TransformerConfig, layer: str) -> Any:
  model = LanguageModel(config)

  def run(params, tokens):
    output = model.forward(params, tokens, model.initial_memory(1, 0), capture=(layer,))
    return model.unembed(params, output.hidden)[0], output.captures[layer][0]

  return tiny.jit(run)


def params(model: LanguageModel, scale: float = 1.0) -> Any:
  return jax.tree.map(lambda leaf: scale * leaf, tiny.random_params(model))
