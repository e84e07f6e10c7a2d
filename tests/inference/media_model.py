"""A model directory that knows text and media, with random parameters: nothing is trained, and little compiled."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x import run_directory
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import vocabularies
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

TASK = "local_text_to_media"
LENGTHS = {"inputs": 16, "targets": 16}  # Less than any medium that the tests make.


@dataclasses.dataclass(frozen=True)
class MediaModel:
  directory: pathlib.Path
  vocabulary: MediaVocabulary
  model: LanguageModel


def write(directory: pathlib.Path, tokens: MediaTokens, task: str = TASK, **likely: float) -> MediaModel:
  """Writes the directory. `likely` has what is added to the logits of specials, of sizes and of the end, EOS."""
  vocabulary = MediaVocabulary(tokens).held()
  layout = vocabulary.layout
  model = LanguageModel(TransformerConfig(
      vocab_size=layout.size, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=16, memory_length=8, output_bias=True))
  bias = np.zeros(layout.size, np.float32)
  for name, logit in likely.items():
    bias[vocabulary.eos_id if name == "EOS" else layout.ranges["size"][int(name[4:]) - 1] if name.startswith("SIZE")
         else layout.special(name)] = logit

  def placed(path: Any, leaf: Any) -> jax.Array:
    return jnp.asarray(bias if path[-1].key == "output_bias" else leaf)

  params = jax.tree_util.tree_map_with_path(placed, tiny.random_params(model))
  vocabularies.save(vocabulary, directory)
  fields = {name: value for name, value in dataclasses.asdict(model.config).items()
            if value != getattr(TransformerConfig, name, None)}
  (directory / run_directory.CONFIG).write_text("\n".join([
      "Experiment.model = @LanguageModel()", "LanguageModel.config = @TransformerConfig()",
      *(f"TransformerConfig.{name} = {value!r}" for name, value in fields.items()),
      "Experiment.dataset = @DatasetConfig()", f"DatasetConfig.mixture_or_task_name = {task!r}",
      f"DatasetConfig.task_feature_lengths = {LENGTHS}", "DatasetConfig.batch_size = 1",
      "DatasetConfig.feature_converter = 'prefix_lm'", ""]))
  checkpoints = Checkpoints(str(directory), CheckpointConfig())
  checkpoints.save(0, {"params": params}, data_state={}, seed=0, config_text="", wait=True)
  checkpoints.close()
  return MediaModel(directory, vocabulary, model)
