"""Sums of each modality of the targets: unweighted, so that they say the same whatever a modality counts for."""

from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gpt4x.media.layout import MODALITIES
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sum

NAMES = tuple(f"{name}_{modality}" for modality in MODALITIES for name in ("loss", "accuracy"))

Value = TypeVar("Value")


def sums_of_modalities(nats: Float[Array, "*batch"], correct: Bool[Array, "*batch"], weights: Float[Array, "*batch"],
                       modality: Int[Array, "*batch"]) -> dict[str, Sum]:
  """`loss_text`, `accuracy_text`, `loss_image` and so on, over the targets of any weight above 0.

  Args:
    nats: the negative log-likelihood of each target.
    correct: whether the target was the likeliest token.
    weights: of the targets in the loss.
    modality: of the targets, an index into MODALITIES.
  """
  found = {}
  for index, name in enumerate(MODALITIES):
    counted = (weights > 0) & (modality == index)
    number = jnp.sum(counted, dtype=jnp.float32)
    found[f"loss_{name}"] = Sum(jnp.sum(jnp.where(counted, nats, 0.0)), number)
    found[f"accuracy_{name}"] = Sum(jnp.sum(counted & correct, dtype=jnp.float32), number)
  return found


def without_absent(metrics: Mapping[str, Value]) -> dict[str, Value]:
  """Metrics without those of modalities that no target had: where the loss is 0, the accuracy would be 1."""
  absent = {kind + name for name in MODALITIES for kind in ("loss_", "accuracy_")
            if metrics.get(f"loss_{name}") == metrics.get(f"accuracy_{name}") == 0}
  return {name: value for name, value in metrics.items() if name not in absent}
