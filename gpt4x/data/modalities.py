"""Which modality each target of a batch is of, and what it counts for in the loss, if the vocabulary has media."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from gpt4x.errors import UserError

Batch = dict[str, np.ndarray]

FEATURE = "decoder_target_modality"


class Modalities:
  """Adds `decoder_target_modality` to batches, [B, L] int32, and weighs their targets.

  It is false for a vocabulary of text alone, whose batches stay as they are.
  """

  def __init__(self, vocabulary: Any, where: str):
    """Takes what a vocabulary may have: `modality` [V] and `loss_weights` [V]; `where` is the task, for messages."""
    self._modality, self._where = getattr(vocabulary, "modality", None), where
    if self._modality is not None:
      self._modality = np.asarray(self._modality, np.int32)
      self._weights = np.asarray(getattr(vocabulary, "loss_weights", np.ones(len(self._modality))), np.float32)

  def __bool__(self) -> bool:
    return self._modality is not None

  def of(self, tokens: np.ndarray) -> np.ndarray:
    """The modality of each token; a UserError for one that is not of the vocabulary."""
    assert self._modality is not None
    outside = tokens[(tokens < 0) | (tokens >= len(self._modality))]
    if outside.size:
      raise UserError(f"task {self._where}: token {outside[0]} is outside its vocabulary of {len(self._modality)}:"
                      " check the task's preprocessors and vocabulary")
    return self._modality[tokens]

  def mark(self, batch: Batch) -> Batch:
    targets = batch["decoder_target_tokens"]
    return {**batch, FEATURE: self.of(targets),
            "decoder_loss_weights": batch["decoder_loss_weights"] * self._weights[targets]}

  def training(self, batches: Any) -> Any:
    """An endless iterator of batches that knows its position, marked."""
    return _Marked(batches, self) if self else batches

  def evaluation(self, batches: Iterator[Batch]) -> Iterator[Batch]:
    return map(self.mark, batches) if self else batches


class _Marked:

  def __init__(self, batches: Any, modalities: Modalities):
    self._batches, self._modalities = batches, modalities

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Batch:
    return self._modalities.mark(next(self._batches))

  def get_state(self) -> dict[str, Any]:
    return self._batches.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._batches.set_state(state)
