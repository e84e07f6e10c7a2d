"""Where prepared data lives: TFDS data sets, token stores and vocabularies."""

import os
import pathlib

WORDS_FILE = "words.txt"  # In a model directory: its words, if it has a vocabulary of words.


def data_dir() -> pathlib.Path:
  """Returns `$GPT4X_DATA_DIR`, or `~/.cache/gpt4x` where that is unset or empty; read afresh at each call."""
  return pathlib.Path(os.environ.get("GPT4X_DATA_DIR") or "~/.cache/gpt4x").expanduser().absolute()


def write(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step, so that whoever dies in between leaves the old one whole."""
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  temporary.write_bytes(content)
  temporary.replace(path)
