"""`gpt4x convert` and `gpt4x export`: other formats become model directories, and the way out."""

import dataclasses
import os
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import seqio

from gpt4x import configuration
from gpt4x.data import directories, vocabularies
from gpt4x.errors import UserError
from gpt4x.interop import exports, transfo_xl
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training.checkpoints import CheckpointConfig, Checkpoints
from gpt4x.training.experiment import Experiment

# The data of a model that comes without: text files of the user's, which eval and fine-tuning ask for.
_DATA = """
import tasks
MIXTURE_OR_TASK_NAME = '{task}'
TASK_FEATURE_LENGTHS = {{'targets': 128}}
BATCH_SIZE = 8
"""
_TASKS = {"ByteVocabulary": "local_text_bytes", "WordVocabulary": "local_text_words"}


def convert(source: str, directory: str | os.PathLike, model_dir: str | os.PathLike) -> None:
  """`gpt4x convert`: reads what `source`, 'transfo_xl' or 'safetensors', put into `directory`."""
  directory, model_dir = pathlib.Path(directory), pathlib.Path(model_dir)
  for name in (configuration.RUN_FILE, "checkpoints"):
    if (model_dir / name).exists():
      raise UserError(f"{model_dir} has a run already ({name}): choose another --model_dir")
  vocabulary = text = None
  if source == "transfo_xl":
    words = transfo_xl.read_words(directory)
    model, params = transfo_xl.from_hugging_face(directory)
    if words is not None:
      vocabulary = vocabularies.write_words(words, model_dir)
  else:
    model, params = exports.load(directory)
    if (directory / vocabularies.SPEC_FILE).exists():
      vocabulary = vocabularies.load(directory)
    if (directory / configuration.RUN_FILE).exists():
      text = (directory / configuration.RUN_FILE).read_text(encoding="utf-8")
  _write(model_dir, model, params, vocabulary, text)
  print(f"wrote {model_dir}: {model.config.num_params():,} parameters")
  if vocabulary is None:
    print(f"gpt4x: warning: {directory} has no vocabulary, so {model_dir} cannot generate text", file=sys.stderr)


def _write(model_dir: pathlib.Path, model: LanguageModel, params: Any, vocabulary: seqio.Vocabulary | None,
           text: str | None) -> None:
  """Writes what `eval`, `generate` and `train.init_from` read; `text` is the configuration that the model came with."""
  fields = dataclasses.asdict(model.config)
  experts = fields.pop("moe") or {}
  bindings = [f"TransformerConfig.{name}={value!r}" for name, value in fields.items()]
  bindings += [f"MoEConfig.{name}={value!r}" for name, value in experts.items()]
  bindings.append(f"TransformerConfig.moe={'@MoEConfig()' if experts else None}")
  bindings.append(f"LanguageModel.z_loss={model.z_loss!r}")
  if vocabulary is not None:
    if vocabulary.vocab_size > model.config.vocab_size:
      raise UserError(f"the vocabulary has {vocabulary.vocab_size} ids, and the model {model.config.vocab_size}: copy"
                      " the one that belongs to it")
    vocabularies.save(vocabulary, model_dir)
    if (model_dir / directories.WORDS_FILE).exists():
      bindings.append(f"LocalText.words={str((model_dir / directories.WORDS_FILE).absolute())!r}")
  task = _TASKS.get(type(vocabulary).__name__, "local_text_words" if vocabulary is None else "local_text_spm")
  if text is None:
    configuration.load(["runs/experiment.gin"], bindings, text=_DATA.format(task=task))
  else:
    configuration.load(bindings=bindings, text=text)
  checkpoints = Checkpoints(model_dir, CheckpointConfig())
  checkpoints.save(0, {"params": params, "step": jnp.zeros((), jnp.int32)}, data_state={}, seed=0,
                   config_text=configuration.config_text(), wait=True)
  checkpoints.close()
  directories.write(model_dir / configuration.RUN_FILE, configuration.config_text().encode())


def export(model_dir: str | os.PathLike, output: str | os.PathLike, step: int | None) -> None:
  """`gpt4x export`: writes a checkpoint as safetensors, with its vocabulary and its run's configuration."""
  configuration.load_run(model_dir)
  experiment = Experiment()  # As gin has it.
  step, params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), step)
  exports.save(output, experiment.model, params)
  if (pathlib.Path(model_dir) / vocabularies.SPEC_FILE).exists():
    vocabularies.save(vocabularies.load(model_dir), output)
  directories.write(pathlib.Path(output) / configuration.RUN_FILE, configuration.config_text().encode())
  print(f"wrote {output}: step {step}, {experiment.model.config.num_params():,} parameters")
