"""Models of the Python face that compile in seconds."""

import functools
from typing import Any

from gpt4x import GPT4Config, GPT4LMHeadModel, GPT4Tokenizer, Trainer, TrainingArguments
from gpt4x.partitioning import Partitioner

SIZES = dict(vocab_size=264, n_positions=24, n_embd=16, n_layer=2, n_head=2, n_inner=24, dtype="float32")
BLOCK = 16


def make_tokenizer(extra_ids: int = 1) -> GPT4Tokenizer:
  return GPT4Tokenizer.of_bytes(extra_ids)


def make_model(seed: int = 0, **changes) -> GPT4LMHeadModel:
  """A model of its own; one seed's weights are drawn once."""
  made = GPT4LMHeadModel.__new__(GPT4LMHeadModel)
  made._set_up(GPT4Config(**SIZES | changes))
  made.params = _fresh(seed, *changes.items()).params
  return made


@functools.cache
def _fresh(seed: int, *changes: tuple[str, Any]) -> GPT4LMHeadModel:
  return GPT4LMHeadModel(GPT4Config(**SIZES | dict(changes)), seed)


def make_arguments(output_dir, **changes) -> TrainingArguments:
  """Six updates of four rows on one device, each logged."""
  return TrainingArguments(str(output_dir), **dict(
      max_steps=6, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=1e-2, logging_steps=1,
      save_steps=3, report_to="none", seed=3, partitioner=Partitioner(data=1, num_devices=1)) | changes)


def make_trainer(output_dir, train_dataset, model=None, tokenizer=None, **changes) -> Trainer:
  """A Trainer, of a fresh model; `changes` are of the arguments, or of the Trainer where it has that name."""
  own = {name: changes.pop(name) for name in ("data_collator", "eval_dataset", "compute_metrics") if name in changes}
  return Trainer(model or make_model(), make_arguments(output_dir, **changes), train_dataset=train_dataset,
                 tokenizer=tokenizer or make_tokenizer(), **own)
