"""What a loop, an evaluation and checkpoints ask of a model; LanguageModel has more, for those who decode text."""

from collections.abc import Callable, Mapping
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
  def frozen_models(self) -> Mapping[str, Any]:
    """The SavedModels that it needs beside its parameters, by name; none for most."""

  def whole(self, params: Any, frozen: Mapping[str, Any]) -> Any:
    """What an objective takes, of what is trained and what is frozen."""

  @property
  def coefficients(self) -> dict[str, float]:
    """What the model's own sums count for in an objective."""

  @property
  def after_update(self) -> tuple[Callable[[Any, Sums], Any], ...]:
    """What moves the parameters after an update of theirs."""
