"""What the commands read from gin; the rest of the library does not ask gin for its state."""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING

import gin

from gpt4x import configuration, run_directory, storage
from gpt4x.configuration import trust
from gpt4x.errors import CommandError, UserError
from gpt4x.experiment import Experiment

if TYPE_CHECKING:  # Who generates needs nothing that trains.
  from gpt4x.training.config import TrainConfig


def new_run(gin_files: Sequence[str], bindings: Sequence[str] = (), model_dir: str | None = None) -> "TrainConfig":
  """The run that experiment files and bindings describe, to be trained in `model_dir`."""
  configuration.load(("runs/train.gin", *gin_files), bindings)
  if model_dir is not None:
    _check_nothing_is_overwritten(model_dir)
  trust.allow(configuration.modules_imported())  # The user's own files import them: so may the run that is saved.
  return _train_config()


def new_experiment(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> Experiment:
  """The experiment of such a run, which may have stored integers, that no training takes."""
  configuration.load(("runs/train.gin", *gin_files), bindings)
  return configuration.build(Experiment)


def saved_run(model_dir: str, bindings: Sequence[str] = ()) -> "TrainConfig":
  """The run of a model directory, changed by `bindings`."""
  from gpt4x.training.config import TrainConfig
  configuration.load_run(model_dir, bindings=bindings)
  if "experiment" not in gin.get_bindings(TrainConfig, resolve_references=False):  # The model was converted.
    raise UserError(f"{model_dir} says how to read its model, not how to train it: choose another --model_dir, with"
                    f" --gin_file={model_dir}/{run_directory.CONFIG} and --gin.train.init_from=\"'{model_dir}'\"")
  return _train_config(model_dir)


def saved_experiment(model_dir: str, gin_files: Sequence[str] = (), bindings: Sequence[str] = (),
                     data: bool = True) -> Experiment:
  """The experiment of a model directory, changed by `gin_files` and `bindings`.

  Without `data`, which `generate` and `export` do not read, modules that only data or training need may be missing.
  """
  configuration.load_run(model_dir, gin_files, bindings, needed=None if data else (Experiment, "generate"))
  return configuration.build(Experiment).of_run(model_dir)


def _train_config(model_dir: str | None = None) -> "TrainConfig":
  """The run that gin describes; that of a model directory has the vocabulary kept there."""
  from gpt4x.training.config import TrainConfig
  config = configuration.build(TrainConfig)
  if model_dir is not None:
    config = dataclasses.replace(config, experiment=config.experiment.of_run(model_dir))
  object.__setattr__(config, "read_from", configuration.config_text())
  return config


def _check_nothing_is_overwritten(model_dir: str) -> None:
  """Raises CommandError if a file of the user's lies where the run's configuration is to be written."""
  path = storage.path(model_dir) / run_directory.CONFIG
  with storage.errors(path):
    if not path.exists():
      return
  remote = lambda read: storage.is_remote(read) or storage.is_remote(path)
  if any(read == path if remote(read) else path.samefile(read) for read in configuration.files_read()):
    raise CommandError(f"--gin_file={path} is the file that the run in {model_dir} writes its configuration to: leave"
                       " --gin_file out to continue that run, or choose another --model_dir for a new one")
  if not path.with_name(run_directory.VOCABULARY).exists():  # Which every run writes first.
    raise CommandError(f"{path} is of no run, and training in {model_dir} would overwrite it: move it, or choose"
                       " another --model_dir")
