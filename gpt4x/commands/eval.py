"""`gpt4x eval`: prints the metrics of a checkpoint, a name and a value a line."""

import argparse

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.errors import CommandError
from gpt4x.evaluation.likelihood import evaluate
from gpt4x.launch import agreement


def run(arguments: argparse.Namespace) -> None:
  if arguments.tune and not arguments.datastore:
    raise CommandError("--tune is for a datastore: name it by --datastore=STORE")
  experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
  agreement.check(configuration.config_text())
  options = {name: value for name in ("samples", "datastore", "tune")
             if (value := getattr(arguments, name))}  # Else what gin says.
  if arguments.retrieve:
    options |= {"retrieve": arguments.retrieve, "documents": arguments.documents}
  with configuration.placing():
    metrics = evaluate(arguments.model_dir, experiment, step=arguments.step, split=arguments.split, **options)
  for name, value in metrics.items():
    print(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}")
