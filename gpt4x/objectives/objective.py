"""Objective: what training minimises, as named sums of a batch."""

from typing import Any, Protocol

import jax

from gpt4x.models.language_model import Batch, Params
from gpt4x.models.sums import Sums


class Objective(Protocol):
  """Maps a batch to named sums; their means are taken once, over the whole batch, and weighted by coefficients.

  One of them is `loss`. It is a negative log-likelihood in nats, with a perplexity and bits per byte, unless the
  objective has an attribute `is_likelihood` that is False. It may have a method `derived(sums) -> dict[str, float]`:
  what else an evaluation is to report of the sums of a whole split.

  It may need models that are never changed, such as a teacher. Then it has an attribute `frozen_models`, a SavedModel
  by name, whose parameters it gets as `frozen`; and `with_frozen_models(models)`, the same objective with others.

  Where it compares the model with the base under its adapters, it has an attribute `refers_to_base` that is True, and
  gets that as 'base'. An attribute `compares` says what a row has several sequences of: 'pairs' of a better and a worse
  answer, or 'triples' of a graph. With an attribute `rollouts`, a loop has it make each batch of the data's, by the
  parameters (`posttraining/rollouts.py`).

  It may need more features of each token than a stream has. Then it has an attribute `token_features`, a
  `data.dataset.TokenFeatures`, and does without them where an evaluation has none.
  """

  def initial_memory(self, model: Any, batch_size: int, length: int, projected: bool = False) -> Any:
    """An empty Memory of `length` positions, or a tree of several; of keys and values when `projected`."""

  def __call__(self, model: Any, params: Params, frozen: Any, batch: Batch, memory: Any,
               rng: jax.Array | None) -> tuple[Sums, Any]:
    """The sums of a batch [B, L] and the memory L positions on.

    Args:
      model: of the kind that the objective is for: a language model, or a codec.
      params: what is trained.
      frozen: parameters that are never differentiated, by name: of a teacher, a reference. Empty without any.
      batch: `decoder_*` features, and what else the objective asked for.
      memory: as `initial_memory` makes it, of any length.
      rng: of dropout; None: there is none.
    """

  def coefficients(self, model: Any) -> dict[str, float]:
    """What the mean of each sum counts for; the weights of these sums may depend on the batch alone."""
