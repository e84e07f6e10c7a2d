"""The names in a model directory, and how its small files are written."""

import os
import pathlib

from gpt4x.errors import UserError

CONFIG = "config.gin"  # The configuration of the run, from which every command continues.
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOSSES = "loss.png"
PROFILE = "profile"
REPORT = "report.html"
COMPRESSORS = "compressors.json"  # What gzip and xz make of the held-out text.
ENVIRONMENT = "environment.json"  # On what the run was last trained, and with which versions.
WANDB, MLFLOW = "wandb.json", "mlflow.json"  # The runs there that show this one.
LOCK = "train.lock"  # Who writes here; see launch/lock.py.
# The run's own vocabulary: its class and arguments, and the file that it reads, if any.
VOCABULARY = "vocabulary.json"
SENTENCEPIECE = "sentencepiece.model"
WORDS = "words.txt"
TOKENIZER = "tokenizer.json"
OWN_VOCABULARY = "vocabulary.bin"


def check_file(path: pathlib.Path) -> None:
  """Raises UserError where a file would take the place of something else, such as a directory or /dev/null."""
  if path.exists() and not path.is_file():
    raise UserError(f"{path} is there already and no regular file: name another")


def write(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step: a process that dies meanwhile leaves the old file whole."""
  check_file(path)
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  temporary.write_bytes(content)
  temporary.replace(path)
