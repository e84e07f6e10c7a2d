"""The names in a model directory."""

import pathlib

from gpt4x import storage

CONFIG = "config.gin"  # The configuration of the run, from which every command continues.
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOSSES = "loss.png"
PROFILE = "profile"
REPORT = "report.html"
SAMPLES, SHEET = "samples", "contact_sheet.png"  # A folder step_STEP each, with a sheet in it.
COMPRESSORS = "compressors.json"  # What gzip and xz make of the held-out text.
ENVIRONMENT = "environment.json"  # On what the run was last trained, and with which versions.
WANDB, MLFLOW = "wandb.json", "mlflow.json"  # The runs there that show this one.
LOCK = "train.lock"  # Who writes here; see launch/lock.py.
# The run's own vocabulary: its class and arguments, and the file that it reads, if any.
VOCABULARY = "vocabulary.json"
SENTENCEPIECE = "sentencepiece.model"
WORDS = "words.txt"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"  # How a tokenizer writes a conversation, if one came with the model.
# What else a model of Hugging Face came with, and is written back with.
HUGGING_FACE = "huggingface"
OWN_VOCABULARY = "vocabulary.bin"
COMMITTED = "commit_success.txt"  # In a checkpoint that is in a bucket.


def is_finished(checkpoint: pathlib.Path) -> bool:
  """Whether a checkpoint is all there: Orbax ends with a rename; in a bucket it writes in place, and this file last."""
  return not storage.is_remote(checkpoint) or (checkpoint / COMMITTED).exists()
