"""`gpt4x export`: writes a checkpoint as safetensors, with vocabulary and configuration; or a codec as its two files."""

import argparse

from gpt4x import configuration, run_directory, storage
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.interop import exports
from gpt4x.media import codec_files
from gpt4x.models.codec_model import CodecModel
from gpt4x.partitioning import Partitioner


def run(arguments: argparse.Namespace) -> None:
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  step, params = experiment.restore_params(arguments.model_dir, Partitioner(data=1, num_devices=1), arguments.step)
  wrote = f"wrote {arguments.output}: step {step}, {experiment.model.config.num_params():,} parameters"
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
