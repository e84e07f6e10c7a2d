"""What the commands read from gin; the rest of the library does not ask gin for its state."""

from collections.abc import Sequence
import dataclasses

import gin

from gpt4x import configuration, run_directory
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.training.config import TrainConfig


def new_run(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> TrainConfig:
  """The run that experiment files and bindings describe."""
  configuration.load(("runs/train.gin", *gin_files), bindings)
  return TrainConfig()


def saved_run(model_dir: str, bindings: Sequence[str] = ()) -> TrainConfig:
  """The run of a model directory, changed by `bindings`."""
  configuration.load_run(model_dir, bindings=bindings)
  if "experiment" not in gin.get_bindings(TrainConfig):  # The model was converted.
    raise UserError(f"{model_dir} says how to read its model, not how to train it: choose another --model_dir, with"
                    f" --gin_file={model_dir}/{run_directory.CONFIG} and --gin.train.init_from=\"'{model_dir}'\"")
  config = TrainConfig()
  return dataclasses.replace(config, experiment=config.experiment.of_run(model_dir))


def saved_experiment(model_dir: str, gin_files: Sequence[str] = (), bindings: Sequence[str] = ()) -> Experiment:
  """The experiment of a model directory, changed by `gin_files` and `bindings`."""
  configuration.load_run(model_dir, gin_files, bindings)
  experiment = Experiment()  # type: ignore[call-arg]  # Gin has the arguments.
  return experiment.of_run(model_dir)
