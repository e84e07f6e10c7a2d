"""`gpt4x export`: writes a checkpoint as safetensors, with vocabulary and configuration, or as the files of a codec.

In the other formats it becomes a folder that decodes without this project, or one for transformers or llama.cpp.
"""

import argparse
from typing import Any

import jax

from gpt4x import configuration, run_directory, storage
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.errors import one_line, UserError
from gpt4x.experiment import Experiment
from gpt4x.interop import exports
from gpt4x.media import codec_files
from gpt4x.models.codec_model import CodecModel
from gpt4x.partitioning import Partitioner


def run(arguments: argparse.Namespace) -> None:
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  if arguments.format == "peft":
    _export_adapters(arguments, experiment)
    return
  bundle, llama = arguments.format != "safetensors", arguments.format.startswith("gguf")
  window = _decoding_window(arguments, experiment) if bundle else 0
  step, params = experiment.restore_params(arguments.model_dir, Partitioner(data=1, num_devices=1), arguments.step)
  wrote = f"wrote {arguments.output}: step {step}, {experiment.model.config.num_params():,} parameters"
  if arguments.format == "huggingface":
    from gpt4x.interop import decoding_weights, hugging_face, tokenizer_files
    found = tokenizer_files.found(arguments.model_dir)
    hugging_face.save(arguments.output, experiment.language_model.config, decoding_weights.named(params), window,
                      **found.fields)
    found.write(arguments.output)
    print(wrote)
    return
  if llama:
    from gpt4x.interop import decoding_weights
    gguf_files = _gguf_files()
    gguf_files.save(arguments.output, experiment.language_model.config, decoding_weights.named(params), window,
                    arguments.format, vocabularies.load(arguments.model_dir))
    print(f"{wrote}. Try: llama-cli -m {arguments.output}/{gguf_files.NAME} -p TEXT")
    return
  if bundle:
    from gpt4x.interop import bundles
    bundles.save(arguments.output, arguments.format, bundles.Decoder.of(experiment.language_model, params, window),
                 vocabularies.load(arguments.model_dir))
    print(f"{wrote}; each token sees the latest {window:,}. Try: python {arguments.output}/run.py --prompt=TEXT")
    return
  if isinstance(experiment.model, CodecModel):
    codec = codec_files.make(experiment.model.config, params)
    codec_files.save(arguments.output, codec)
    print(f"{wrote}, a codec of {codec.medium} with fingerprint {codec.fingerprint}")
    return
  exports.save(arguments.output, experiment.language_model, params)
  if (storage.path(arguments.model_dir) / run_directory.VOCABULARY).exists():
    vocabularies.save(vocabularies.load(arguments.model_dir), arguments.output)
  # As the run saved it, with what only data and training need.
  text = configuration.read(storage.path(arguments.model_dir) / run_directory.CONFIG)
  storage.write(storage.path(arguments.output) / run_directory.CONFIG, text.encode())
  print(wrote)


def _export_adapters(arguments: argparse.Namespace, experiment: Experiment) -> None:
  """Adapters alone; their base is not read."""
  from gpt4x.interop import peft_files
  model, _ = peft_files.check(experiment.model)
  peft_files.check_free(arguments.output)
  placed = Partitioner(data=1, num_devices=1).place(*model.declared)
  step, params = Checkpoints(arguments.model_dir).restore_params(placed, arguments.step)
  peft_files.save(arguments.output, model, params)
  print(f"wrote {arguments.output}: step {step}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")


def _gguf_files() -> Any:
  try:
    from gpt4x.interop import gguf_files
  except ImportError as error:
    raise UserError(f"--format=gguf needs a package that is not installed ({one_line(error)}): pip install"
                    " 'gpt4x[export]'") from error
  return gguf_files


def _decoding_window(arguments: argparse.Namespace, experiment: Experiment) -> int:
  """The window that `gpt4x generate` decodes with; a UserError, before anything is read, for what is not exported."""
  from gpt4x.inference.generate import Generator
  from gpt4x.interop import bundles
  if isinstance(experiment.model, CodecModel):
    raise UserError(f"--format={arguments.format}: {arguments.model_dir} is the run of a codec, which decodes no text:"
                    " leave --format out")
  if experiment.dataset.feature_converter == "prefix_lm":
    raise UserError(f"--format={arguments.format}: the model in {arguments.model_dir} reads its prompt in both"
                    " directions, which an exported one cannot: leave --format out")
  if arguments.format == "huggingface":
    from gpt4x.interop import hugging_face
    hugging_face.check(experiment.language_model.config)
    hugging_face.check_free(arguments.output)
    if not vocabularies.saved_in(arguments.model_dir):
      return experiment.decoding_window()
  elif arguments.format.startswith("gguf"):
    _gguf_files().check(experiment.language_model.config, vocabularies.load(arguments.model_dir))
    _gguf_files().check_free(arguments.output)
  else:
    bundles.check(vocabularies.load(arguments.model_dir))
    bundles.check_free(arguments.output, arguments.format)
  with configuration.placing():
    return Generator(arguments.model_dir, experiment, step=arguments.step).window
