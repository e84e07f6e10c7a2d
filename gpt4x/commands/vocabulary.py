"""`gpt4x vocabulary`: trains a SentencePiece vocabulary on the text of a task."""

import argparse

from gpt4x import configuration, storage
from gpt4x.data import vocabularies


def run(arguments: argparse.Namespace) -> None:
  configuration.load(("runs/train.gin", *arguments.gin_file), arguments.gin, partial=True)
  storage.check_file(vocabularies.model_path(arguments.output))  # Before the training.
  import gpt4x.tasks  # noqa: F401  Registers the shipped ones.
  print(f"wrote {vocabularies.train_from_task(arguments.task, arguments.size, arguments.output)}")
