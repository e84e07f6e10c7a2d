"""Model directories of models in other formats."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import seqio

from gpt4x import run_directory
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.interop import exports, transfo_xl
from gpt4x.models.language_model import LanguageModel

# The data of a model that comes without: text files of the user's, which eval and fine-tuning ask for.
_DATA = """
import gpt4x.tasks
MIXTURE_OR_TASK_NAME = '{task}'
TASK_FEATURE_LENGTHS = {{'targets': 128}}
BATCH_SIZE = 8
"""
_TASKS = {"ByteVocabulary": "local_text_bytes", "WordVocabulary": "local_text_words"}


@dataclasses.dataclass(frozen=True)
class Foreign:
  """A model as it was found, and what gin is to be told of it."""

  model: LanguageModel
  params: Any
  vocabulary: seqio.Vocabulary | None
  text: str | None  # The configuration that it came with.
  bindings: Sequence[str]  # Of the model, and of where its words are.

  @property
  def data(self) -> str:
    """Gin text of the data of a model that comes without a configuration."""
    none = "local_text_words" if self.vocabulary is None else "local_text_spm"
    return _DATA.format(task=_TASKS.get(type(self.vocabulary).__name__, none))


def read(source: str, directory: pathlib.Path, model_dir: str | os.PathLike) -> Foreign:
  """Reads what `source`, 'transfo_xl' or 'safetensors', put into `directory`; words are written into `model_dir`."""
  model_dir = pathlib.Path(model_dir)
  vocabulary = text = None
  if source == "transfo_xl":
    words = transfo_xl.read_words(directory)
    model, params = transfo_xl.from_hugging_face(directory)
    if words is not None:
      vocabulary = vocabularies.write_words(words, model_dir)
  else:
    model, params = exports.load(directory)
    if (directory / run_directory.VOCABULARY).exists():
      vocabulary = vocabularies.load(directory)
    if (directory / run_directory.CONFIG).exists():
      text = (directory / run_directory.CONFIG).read_text(encoding="utf-8")
  if vocabulary is not None and vocabulary.vocab_size > model.config.vocab_size:
    raise UserError(f"the vocabulary has {vocabulary.vocab_size} ids, and the model {model.config.vocab_size}: copy"
                    " the one that belongs to it")
  return Foreign(model, params, vocabulary, text, _bindings(model, vocabulary, model_dir))


def _bindings(model: LanguageModel, vocabulary: seqio.Vocabulary | None, model_dir: pathlib.Path) -> list[str]:
  fields = dataclasses.asdict(model.config)
  experts = fields.pop("moe") or {}
  bindings = [f"TransformerConfig.{name}={value!r}" for name, value in fields.items()]
  bindings += [f"MoEConfig.{name}={value!r}" for name, value in experts.items()]
  bindings.append(f"TransformerConfig.moe={'@MoEConfig()' if experts else None}")
  if isinstance(vocabulary, vocabularies.WordVocabulary):
    bindings.append(f"LocalText.words={str((model_dir / run_directory.WORDS).absolute())!r}")
  return bindings


def write(model_dir: pathlib.Path, found: Foreign, config_text: str) -> None:
  """Writes what `eval`, `generate` and `train.init_from` read."""
  if found.vocabulary is not None:
    vocabularies.save(found.vocabulary, model_dir)
  checkpoints = Checkpoints(model_dir, CheckpointConfig())
  checkpoints.save(0, {"params": found.params, "step": jnp.zeros((), jnp.int32)}, data_state={}, seed=0,
                   config_text=config_text, wait=True)
  checkpoints.close()
  run_directory.write(model_dir / run_directory.CONFIG, config_text.encode())
