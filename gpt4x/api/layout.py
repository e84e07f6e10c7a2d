"""Collated batches, in the names of transformers, as the `decoder_*` features that objectives read.

A model reads a token and says the next; before a text's first token it reads the start id, which no ids hold. A batch
of `input_ids` is laid out accordingly, or for masked tokens as it is: then all tokens see each other, and what is said
at a place is the token of that place.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt4x.data.stream import FEATURES
from gpt4x.errors import UserError

IGNORED = -100  # The label of a token that counts for nothing.


def arrays(input_ids: Any, attention_mask: Any = None, labels: Any = None
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """(ids [B, n] int32, whether each is a token of the text [B, n], labels [B, n] int32 or None)."""
  ids = _whole("input_ids", input_ids, None)
  real = np.ones(ids.shape, bool) if attention_mask is None else _whole("attention_mask", attention_mask, ids) > 0
  return ids, real, None if labels is None else _whole("labels", labels, ids)


def _whole(name: str, value: Any, beside: np.ndarray | None) -> np.ndarray:
  try:
    found = np.asarray(value)
  except ValueError:  # Of unequal rows.
    raise UserError(f"{name} has rows of different lengths: pad them, as tokenizer(texts, padding=True,"
                    " return_tensors='np') does") from None
  if found.dtype == bool:
    found = found.astype(np.int32)
  if found.ndim != 2 or found.dtype.kind not in "iu":
    raise UserError(f"{name} is {found.dtype} {list(found.shape)}: give whole numbers in rows, [B, n], as"
                    " tokenizer(text, return_tensors='np') does")
  if beside is not None and found.shape != beside.shape:
    raise UserError(f"{name} is {list(found.shape)} beside input_ids {list(beside.shape)}: make them alike")
  return found.astype(np.int32)


def check_ids(name: str, ids: np.ndarray, vocab_size: int) -> None:
  """Raises UserError for an id that the model has no embedding for, which JAX would silently take for another."""
  wrong = ids[(ids < 0) | (ids >= vocab_size)]
  if wrong.size:
    raise UserError(f"{name} has the id {wrong[0]}, and the model knows 0 to {vocab_size - 1}: use the model's own"
                    " tokenizer")


def with_start(ids: np.ndarray, real: np.ndarray, start_id: int) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and segment ids [B, n + 1]: each row with the start id before its first token, behind any padding."""
  first, place = np.argmax(real, 1)[:, None], np.arange(ids.shape[1] + 1)
  before = np.clip(place - (place > first), 0, ids.shape[1] - 1)
  tokens = np.where(place == first, start_id, np.take_along_axis(ids, before, 1))
  segments = np.where(place == first, np.any(real, 1)[:, None], np.take_along_axis(real, before, 1))
  return tokens.astype(np.int32), segments.astype(np.int32)


def decoder_features(batch: Mapping[str, Any], length: int, start_id: int, mlm: bool) -> dict[str, np.ndarray]:
  """A batch as features [B, length], padded on the right; with `mlm` all tokens see each other, and nothing is shifted.

  Without labels, the tokens themselves are what is predicted.
  """
  ids, real, labels = arrays(batch["input_ids"], batch.get("attention_mask"), batch.get("labels"))
  room = length - ids.shape[1]
  if room < 0:
    raise UserError(f"the data collator gave rows of {ids.shape[1]} tokens, and {length} for the longest example alone:"
                    " let it pad to one length")
  labels = ids if labels is None else labels
  counted = (labels != IGNORED) & real
  found = {"decoder_target_tokens": np.where(counted, labels, ids * real),
           "decoder_input_tokens": (ids if mlm else _shifted(ids, real, start_id)) * real,
           "decoder_segment_ids": real, "decoder_loss_weights": counted}
  if mlm:
    found["decoder_causal_attention"] = real
  return {name: np.pad(value, ((0, 0), (0, room))).astype(FEATURES.get(name, np.int32))
          for name, value in found.items()}


def _shifted(ids: np.ndarray, real: np.ndarray, start_id: int) -> np.ndarray:
  """What is read before each token: the one before it, or the start id."""
  places = np.where(real, np.arange(ids.shape[1]), -1)
  before = np.pad(np.maximum.accumulate(places, 1), ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  return np.where(before < 0, start_id, np.take_along_axis(ids, before.clip(0), 1))
