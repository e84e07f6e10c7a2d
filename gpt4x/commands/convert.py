"""`gpt4x convert`."""

import argparse
import pathlib
import sys

from gpt4x import configuration, run_directory
from gpt4x.errors import UserError
from gpt4x.interop import model_directories


def run(arguments: argparse.Namespace) -> None:
  """Makes a model directory, which eval, generate and init_from read, of a model in another format."""
  model_dir = pathlib.Path(arguments.model_dir)
  for name in (run_directory.CONFIG, run_directory.CHECKPOINTS):
    if (model_dir / name).exists():
      raise UserError(f"{model_dir} has a run already ({name}): choose another --model_dir")
  found = model_directories.read(arguments.source, pathlib.Path(arguments.input), model_dir)
  if found.text is None:
    configuration.load(["runs/experiment.gin"], found.bindings, text=found.data)
  else:
    configuration.load(bindings=found.bindings, text=found.text)
  model_directories.write(model_dir, found, configuration.config_text())
  print(f"wrote {model_dir}: {found.model.config.num_params():,} parameters")
  if found.vocabulary is None:
    print(f"gpt4x: warning: {arguments.input} has no vocabulary, so {model_dir} cannot generate text", file=sys.stderr)
