"""Corpora, vocabularies and batches, and the folder where prepared data is kept."""

import os
import pathlib


def data_dir() -> pathlib.Path:
  """Returns `$GPT4X_DATA_DIR`, or `~/.cache/gpt4x` where that is unset or empty; read afresh at each call."""
  return pathlib.Path(os.environ.get("GPT4X_DATA_DIR") or "~/.cache/gpt4x").expanduser().absolute()
