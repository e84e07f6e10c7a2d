"""gpt4x: GPT-4-style models on JAX, built on Transformer-XL and trained from gin files.

The classes in the manner of Hugging Face (docs/hugging-face-style.md) are imported when they are asked for.
"""

from typing import Any

__version__ = "0.1.0"

_CLASSES = {
    "DataCollatorForLanguageModeling": "collators", "GPT4Config": "config", "GPT4LMHeadModel": "model",
    "GPT4Tokenizer": "tokenizer", "TextDataset": "datasets", "Trainer": "trainer", "TrainingArguments": "arguments"}


def __getattr__(name: str) -> Any:
  if name not in _CLASSES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  import importlib
  return getattr(importlib.import_module(f"{__name__}.api.{_CLASSES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_CLASSES})
