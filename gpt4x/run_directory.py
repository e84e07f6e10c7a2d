"""What lies in a model directory, each name once, and how its small files are written."""

import os
import pathlib

CONFIG = "config.gin"  # The configuration of the run, from which every command continues.
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOSSES = "loss.png"
PROFILE = "profile"
# The run's own vocabulary: what it is, and its file.
VOCABULARY = "vocabulary.json"
SENTENCEPIECE = "sentencepiece.model"
WORDS = "words.txt"


def write(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step, so that whoever dies in between leaves the old one whole."""
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  temporary.write_bytes(content)
  temporary.replace(path)
