"""Groups of targets: sums of each modality, and of each part of a batch, unweighted, so that they say the same whatever
a target counts for in the loss."""

from collections.abc import Mapping
from typing import Self, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gpt4x.data.row_mixture import PART
from gpt4x.errors import UserError
from gpt4x.media.layout import MODALITIES
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sum

Value = TypeVar("Value")


@flax.struct.dataclass
class Groups:
  """Which targets are of which groups; a target may be of several."""

  members: jax.Array  # [B, L, groups] bool
  names: tuple[str, ...] = flax.struct.field(pytree_node=False)

  @classmethod
  def of(cls, batch: Mapping[str, jax.Array]) -> Self | None:
    """Those that a batch tells: of modalities in a vocabulary with media, of parts in a mixture of rows; or None."""
    found = {name.removeprefix(PART): rows > 0 for name, rows in batch.items() if name.startswith(PART)}
    if (modality := batch.get("decoder_target_modality")) is not None:
      if taken := found.keys() & set(MODALITIES):
        raise UserError(f"RowMixture.parts has {taken.pop()!r}, which the vocabulary has as a modality: name the part"
                        " otherwise")
      found |= {name: modality == index for index, name in enumerate(MODALITIES)}
    return cls(jnp.stack(list(found.values()), -1), tuple(found)) if found else None

  @property
  def sum_names(self) -> tuple[str, ...]:
    return tuple(f"{kind}_{name}" for name in self.names for kind in ("loss", "accuracy"))


def sums_of_groups(nats: Float[Array, "*batch"], correct: Bool[Array, "*batch"], weights: Float[Array, "*batch"],
                   groups: Groups) -> dict[str, Sum]:
  """`loss_NAME` and `accuracy_NAME` of each group, over its targets of any weight above 0.

  Args:
    nats: the negative log-likelihood of each target.
    correct: whether the target was the likeliest token.
    weights: of the targets in the loss.
    groups: of the targets.
  """
  found = {}
  for index, name in enumerate(groups.names):
    counted = (weights > 0) & groups.members[..., index]
    number = jnp.sum(counted, dtype=jnp.float32)
    found[f"loss_{name}"] = Sum(jnp.sum(jnp.where(counted, nats, 0.0)), number)
    found[f"accuracy_{name}"] = Sum(jnp.sum(counted & correct, dtype=jnp.float32), number)
  return found


def without_absent(metrics: Mapping[str, Value]) -> dict[str, Value]:
  """Metrics without those of groups that no target was of: where the loss is 0, the accuracy would be 1."""
  names = {name.removeprefix("loss_") for name in metrics if name.startswith("loss_")}
  absent = {kind + name for name in names for kind in ("loss_", "accuracy_")
            if metrics[f"loss_{name}"] == metrics.get(f"accuracy_{name}") == 0}
  return {name: value for name, value in metrics.items() if name not in absent}
