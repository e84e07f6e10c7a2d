"""The names in a model directory, and how its small files are written."""

import os
import pathlib

CONFIG = "config.gin"  # The configuration of the run, from which every command continues.
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOSSES = "loss.png"
PROFILE = "profile"
# The run's own vocabulary: its class and arguments, and the file that it reads, if any.
VOCABULARY = "vocabulary.json"
SENTENCEPIECE = "sentencepiece.model"
WORDS = "words.txt"
TOKENIZER = "tokenizer.json"
OWN_VOCABULARY = "vocabulary.bin"


def write(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step: a process that dies meanwhile leaves the old file whole."""
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  temporary.write_bytes(content)
  temporary.replace(path)
