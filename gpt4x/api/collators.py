"""Data collators: examples to arrays of a batch, with what is to be predicted."""

from collections.abc import Sequence
import copy
from typing import Any, Self

import numpy as np

from gpt4x.api.attributes import Attributes
from gpt4x.api.examples import feature
from gpt4x.api.layout import IGNORED
from gpt4x.api.tokenizer import GPT4Tokenizer
from gpt4x.errors import refuse, require, UserError


class DataCollatorForLanguageModeling:
  """Pads examples, and says what is to be predicted: every next token, or with `mlm` tokens that it hides.

  Of what is hidden, four fifths become the mask token, a tenth a token drawn from all of text, and a tenth stay as
  they are. Special tokens and padding are never hidden.

  Attributes:
    tokenizer: whose ids these are.
    mlm: whether tokens are hidden.
    mlm_probability: with which each is.
    seed: of the draws; None: a Trainer's, or outside of one another each time.
    pad_to_multiple_of: what the length of rows is a multiple of; None: of anything.
  """

  def __init__(self, tokenizer: GPT4Tokenizer, mlm: bool = True, mlm_probability: float = 0.15, seed: int | None = None,
               pad_to_multiple_of: int | None = None, return_tensors: str = "np"):
    self.tokenizer, self.mlm, self.mlm_probability = tokenizer, mlm, mlm_probability
    self.seed, self.pad_to_multiple_of = seed, pad_to_multiple_of
    require(self, "above 0 and at most 1", lambda share: 0 < share <= 1, "mlm_probability")
    refuse(self, seed is not None and seed < 0, "seed", "must be a whole number from 0, or None")
    refuse(self, pad_to_multiple_of is not None and pad_to_multiple_of < 1, "pad_to_multiple_of",
           "must be at least 1, or None")
    if return_tensors != "np":
      raise UserError(f"return_tensors = {return_tensors!r} is unknown: leave it out, for NumPy's arrays")
    if mlm and tokenizer.mask_token_id is None:
      raise UserError("mlm=True hides tokens behind a mask token, and the tokenizer has none: set mlm=False to predict"
                      " the next token, or take a vocabulary with <mask>, such as GPT4Tokenizer.of_bytes()")
    self._draws = np.random.default_rng(seed)
    if mlm:
      self._special = np.array(tokenizer.all_special_ids, np.int32)
      self._text = np.setdiff1d(np.arange(len(tokenizer), dtype=np.int32), self._special)

  @property
  def identity(self) -> list[Any]:
    """What its batches follow from, beside the examples."""
    return [type(self).__name__, self.mlm, self.mlm_probability, self.seed, self.pad_to_multiple_of]

  def seeded(self, *numbers: int) -> Self:
    """The same, whose draws begin where its seed and these numbers say."""
    made = copy.copy(self)
    made._draws = np.random.default_rng([self.seed or 0, *numbers])
    return made

  def __call__(self, features: Sequence[Any]) -> Attributes:
    """`input_ids`, `attention_mask` and `labels` [B, n] of examples: ids, or dicts with `input_ids`.

    A label of -100 counts for nothing. Without `mlm` the labels are the tokens themselves: what is before each predicts
    it.
    """
    batch = padded(features, self.tokenizer, self.pad_to_multiple_of)
    ids, real = batch.input_ids, batch.attention_mask > 0
    if not self.mlm:
      return Attributes(batch, labels=np.where(real, ids, IGNORED).astype(np.int32))
    hidden = (self._draws.random(ids.shape) < self.mlm_probability) & real & ~np.isin(ids, self._special)
    fate, drawn = self._draws.random(ids.shape), self._draws.choice(self._text, ids.shape)
    shown = np.where(fate < 0.8, self.tokenizer.mask_token_id, np.where(fate < 0.9, drawn, ids))
    return Attributes(batch, input_ids=np.where(hidden, shown, ids).astype(np.int32),
                      labels=np.where(hidden, ids, IGNORED).astype(np.int32))


class DefaultCollator:
  """Pads examples with the labels that they have; where one has none, all of its tokens are to be predicted."""

  identity = "default"

  def __init__(self, tokenizer: GPT4Tokenizer):
    self.tokenizer = tokenizer

  def __call__(self, features: Sequence[Any]) -> Attributes:
    batch = padded(features, self.tokenizer)
    labels = np.where(batch.attention_mask > 0, batch.input_ids, IGNORED).astype(np.int32)
    _put(labels, "labels", features, self.tokenizer)
    return Attributes(batch, labels=labels)


def padded(features: Sequence[Any], tokenizer: GPT4Tokenizer, multiple: int | None = None) -> Attributes:
  """The `input_ids` and the `attention_mask` of examples, [B, n]; n is a multiple of `multiple`."""
  items = list(map(feature, features))
  if not items or any("input_ids" not in item for item in items):
    raise UserError("a data collator takes examples with input_ids, or the ids themselves: give it some")
  rows = [item["input_ids"] for item in items]
  longest = max(len(row) for row in rows)
  batch = tokenizer.pad(rows, -(-longest // (multiple or 1)) * (multiple or 1))
  _put(batch.attention_mask, "attention_mask", features, tokenizer)  # Which may leave out more than padding.
  return batch


def _put(rows: np.ndarray, name: str, features: Sequence[Any], tokenizer: GPT4Tokenizer) -> None:
  """Puts what examples have under a name where their tokens are in `rows` [B, n]."""
  for number, item in enumerate(map(feature, features)):
    if name in item:
      value, count = np.asarray(item[name]), len(item["input_ids"])
      if value.shape != (count,):
        raise UserError(f"an example has {name} {list(value.shape)} beside {count} input_ids: make them alike")
      rows[number, slice(rows.shape[1] - count, None) if tokenizer.padding_side == "left" else slice(count)] = value
