"""Objective: what training minimises, as named sums of a batch."""

from typing import Any, Protocol

import jax

from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.sums import Sums


class Objective(Protocol):
  """Maps a batch to named sums; their means are taken once, over the whole batch, and weighted by coefficients."""

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Any:
    """An empty Memory of `length` positions, or a tree of several; of keys and values when `projected`."""

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Any,
               rng: jax.Array | None) -> tuple[Sums, Any]:
    """The sums of a batch [B, L] and the memory L positions on.

    Args:
      model: the language model.
      params: what is trained.
      frozen: parameters that are never differentiated, by name: of a teacher, a reference. Empty without any.
      batch: `decoder_*` features, and what else the objective asked for.
      memory: as `initial_memory` makes it, of any length.
      rng: of dropout; None: there is none.
    """

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    """What the mean of each sum counts for; the weights of these sums may depend on the batch alone."""
