"""`gpt4x train`: trains a model, or continues the run in its directory, with either loop."""

import argparse

from gpt4x import configuration, storage
from gpt4x.commands import reading
from gpt4x.errors import CommandError, UserError
from gpt4x.launch import agreement


def run(arguments: argparse.Namespace) -> int:
  if arguments.loop == "t5x":
    try:
      import t5x.train  # noqa: F401
    except ImportError as error:
      raise UserError(
          f"--loop=t5x needs upstream t5x, which is not installed here ({error}): run `make t5x` in a clone, or pip"
          " install --no-deps each requirement of the extra t5x in setup.py") from error
    if arguments.step is not None:
      raise CommandError(f"--step={arguments.step} goes back with --loop=gpt4x alone: leave either out")
    if storage.is_remote(arguments.model_dir):
      raise UserError(f"--loop=t5x writes to local directories here, not to {arguments.model_dir}: use --loop=gpt4x")
    if agreement.connected():
      raise UserError("--loop=t5x runs in one process here: use --loop=gpt4x, or --num_processes=1")
  config = (reading.new_run(arguments.gin_file, arguments.gin, arguments.model_dir) if arguments.gin_file
            else reading.saved_run(arguments.model_dir, arguments.gin))
  agreement.check(configuration.config_text())
  if arguments.loop == "t5x":
    from gpt4x.interop.t5x.loop import train
    return train(arguments.model_dir, config, arguments.profile_steps)
  from gpt4x.interop.t5x import crossing
  from gpt4x.training.loop import train as train_here
  if arguments.step is not None and (theirs := crossing.newest_t5x_step(arguments.model_dir) or 0) > arguments.step:
    raise UserError(f"{arguments.model_dir} has t5x's checkpoint_{theirs}, which is newer than --step={arguments.step}:"
                    " move it away first")
  crossing.bring_over(arguments.model_dir, config)
  return train_here(arguments.model_dir, config, arguments.profile_steps, arguments.step)
