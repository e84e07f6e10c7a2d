"""What a loop, an evaluation and checkpoints ask of a model; LanguageModel has more, for those who decode text."""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from gpt4x.models.sums import Sums


class Model(Protocol):
  """Pure functions of parameters, and what is known of these."""

  @property
  def config(self) -> Any:
    """Has `vocab_size`, `memory_length`, `eval_memory_length`, `compute_dtype`, `num_params` and `flops_per_token`."""

  def init(self, rng: jax.Array) -> Any:
    """Fresh float32 parameters, a nested dict."""

  @property
  def declared(self) -> tuple[Any, Any]:
    """The shape and the Declaration of each parameter, two trees; no computation."""

  @property
  def coefficients(self) -> dict[str, float]:
    """What the model's own sums count for in an objective."""

  @property
  def after_update(self) -> tuple[Callable[[Any, Sums], Any], ...]:
    """What moves the parameters after an update of theirs."""
