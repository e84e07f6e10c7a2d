"""`gpt4x convert`: makes a model directory, for eval, generate and init_from, of a model in another format."""

import argparse
import sys

from gpt4x import run_directory, storage
from gpt4x.errors import CommandError, UserError
from gpt4x.interop import model_directories
from gpt4x.launch import lock


def run(arguments: argparse.Namespace) -> None:
  with lock.held(arguments.model_dir):
    _convert(arguments)


def _convert(arguments: argparse.Namespace) -> None:
  model_dir = storage.path(arguments.model_dir)
  for name in (run_directory.CONFIG, run_directory.CHECKPOINTS):
    if (model_dir / name).exists():
      raise UserError(f"{model_dir} has a run already ({name}): choose another --model_dir")
  if (arguments.source == "peft") != (arguments.base is not None):
    raise CommandError("--from=peft needs --base=DIR, the model directory of what was adapted, and no other format has"
                       " it")
  with storage.local_copy(storage.path(arguments.input)) as directory:
    found = (model_directories.read_adapters(directory, arguments.base) if arguments.base else
             model_directories.read(arguments.source, directory, model_dir))
  model_directories.keep(model_dir, found, where=f"{arguments.input}/{run_directory.CONFIG}")
  print(f"wrote {model_dir}: {found.model.config.num_params():,} parameters")
  if found.vocabulary is None:
    print(f"gpt4x: warning: {arguments.input} has no vocabulary, so {model_dir} cannot generate text", file=sys.stderr)
