"""A layer, and what may be done with each layer of the stack in turn.

An operation is a pytree with what all layers have in common in one call: (layer, x, past) -> (x, new). A new one is a
class here and a method of TransformerXL that runs it through the stack.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from gpt4x.models import attention
from gpt4x.models.config import TransformerConfig
from gpt4x.models.layers import constrain, MLP, Norm
from gpt4x.models.memory import KeyValues, RingKeyValues, StepConstants
from gpt4x.models.moe import MoE

# What may be captured of a layer: what attention and the MLP (or the mixture) add, what the latter is given, and the
# residual stream behind them.
CAPTURES = ("attention", "mlp_input", "mlp", "output")
# (layer, x, past) -> (x, new); past and new are the layer's part of values that are stacked over the layers.
Operation = Callable[["Layer", jax.Array, Any], tuple[jax.Array, Any]]


class Layer(nn.Module):
  """Attention and MLP, each with its norm and residual."""

  config: TransformerConfig
  mixture: bool = False  # Whether a mixture of experts takes the MLP's place.

  def setup(self):
    self.attention_norm, self.mlp_norm = Norm(self.config), Norm(self.config)
    self.attention = attention.Attention(self.config)
    if self.mixture:
      self.moe = MoE(self.config)
    else:
      self.mlp = MLP(self.config)
    self.dropout = nn.Dropout(self.config.dropout_rate)

  def __call__(self, x: jax.Array, past: Any, operation: Operation) -> tuple[jax.Array, Any]:
    return operation(self, x, past)

  @property
  def pre(self) -> bool:
    return self.config.norm_position == "pre"

  def before_attention(self, x: jax.Array) -> jax.Array:
    return self.attention_norm(x) if self.pre else x

  def after_attention(self, x: jax.Array, attended: jax.Array, real: jax.Array,
                      deterministic: bool) -> dict[str, jax.Array]:
    """The rest of the layer: all that may be captured of it, the new x as `output`."""
    x = x + self.dropout(attended, deterministic=deterministic)
    if not self.pre:
      x = self.attention_norm(x)
    x = constrain(x, ("batch", "residual_length", "embed"))
    normed = self.mlp_norm(x) if self.pre else x
    hidden = self.moe(normed, real, deterministic) if self.mixture else self.mlp(normed)
    x = x + self.dropout(hidden, deterministic=deterministic)
    if not self.pre:
      x = self.mlp_norm(x)
    return {"attention": attended, "mlp_input": normed, "mlp": hidden,
            "output": constrain(x, ("batch", "residual_length", "embed"))}


class Block(nn.Module):
  """The layers after which they repeat, as one; what is stacked over layers has a leading axis for them."""

  config: TransformerConfig
  layer: type[Layer]

  def setup(self):
    c = self.config
    self.layers = [self.layer(c, c.is_mixture(i)) for i in range(c.period // c.share_layers)]

  def __call__(self, x: jax.Array, past: Any, operation: Operation) -> tuple[jax.Array, Any]:
    return run_layers(self.layers * self.config.share_layers, x, past, operation)


def run_layers(layers: Sequence[Layer], x: jax.Array, past: Any, operation: Operation) -> tuple[jax.Array, Any]:
  """An operation on each layer in turn; past and new are lists, or their leaves have a leading axis for the layers."""
  news = []
  for layer, one in zip(layers, past if isinstance(past, list) else unstack(past, len(layers))):
    x, new = layer(x, one, operation)
    news.append(new)
  return x, news if isinstance(past, list) else jax.tree.map(lambda *leaves: jnp.stack(leaves), *news)


def unstack(stacked: Any, count: int) -> list[Any]:
  return [jax.tree.map(lambda leaf: leaf[i], stacked) for i in range(count)]


@flax.struct.dataclass
class Segment:
  """Attends from a segment x [B, L, D] to its memory and itself.

  past: the layer's memory, [B, M, D] or KeyValues, and its position keys if they are made already.
  new: of a memory [B, M, D] what it is L positions on, else the segment's own KeyValues; and what is captured.
  """

  mask: attention.Prepared
  real: jax.Array  # [B, L], False for padding.
  biases: tuple[jax.Array, jax.Array] | None  # u and v, [H, K], where all layers share them.
  relative: jax.Array | None  # R, [S, D]; None where there are position keys, and for rotary positions.
  deterministic: bool = flax.struct.field(pytree_node=False)
  capture: frozenset[str] = flax.struct.field(pytree_node=False, default=frozenset())  # Some of CAPTURES.

  def __call__(self, layer: Layer, x: jax.Array, past: tuple[jax.Array | KeyValues, jax.Array | None]):
    memory, position_keys = past
    if self.relative is not None:
      position_keys = layer.attention.project_positions(self.relative)

    def attend(normed, past):
      return layer.attention(normed, past, self.mask, position_keys, self.biases, self.deterministic)

    if layer.config.empty_memory == "zeros":
      x = jnp.where(self.real[..., None], x, 0)
    normed = layer.before_attention(x)
    if isinstance(memory, KeyValues):
      attended, new = attend(normed, memory)
    else:
      new = jnp.concatenate([memory, x], 1)[:, x.shape[1]:]
      attended, _ = attend(normed, layer.before_attention(memory))
    found = layer.after_attention(x, attended, self.real, self.deterministic)
    return found["output"], (new, {name: found[name] for name in self.capture})


@flax.struct.dataclass
class Step:
  """Attends from one token of each row, x [B, 1, D], to a ring of keys and values, which is moved on.

  past: the layer's ring and its constants; new: the ring, and what is captured.
  """

  mask: jax.Array  # [B, W] by slot.
  real: jax.Array  # [B, 1]
  biases: tuple[jax.Array, jax.Array] | None
  index: jax.Array  # []
  capture: frozenset[str] = flax.struct.field(pytree_node=False, default=frozenset())  # Some of CAPTURES.

  def __call__(self, layer: Layer, x: jax.Array, past: tuple[RingKeyValues, StepConstants]):
    attended, ring = layer.attention.step(layer.before_attention(x), *past, self.mask, self.index, self.biases)
    found = layer.after_attention(x, attended, self.real, deterministic=True)
    return found["output"], (ring, {name: found[name] for name in self.capture})


@flax.struct.dataclass
class Ahead:
  """Attends from some tokens of one row, x [1, k, D], to a ring of keys and values and to each other.

  past: the layer's ring and its constants; new: what would come into the ring.
  """

  mask: jax.Array  # [k, W] by slot.
  biases: tuple[jax.Array, jax.Array] | None
  index: jax.Array  # []

  def __call__(self, layer: Layer, x: jax.Array, past: tuple[RingKeyValues, StepConstants]):
    attended, new = layer.attention.ahead(layer.before_attention(x), *past, self.mask, self.index, self.biases)
    real = jnp.ones(x.shape[:2], bool)
    return layer.after_attention(x, attended, real, deterministic=True)["output"], new


@flax.struct.dataclass
class StartRing:
  """Makes a layer's ring and constants of its KeyValues; x passes through."""

  def __call__(self, layer: Layer, x: jax.Array, past: KeyValues) -> tuple[jax.Array, tuple]:
    return x, layer.attention.ring(past)


@flax.struct.dataclass
class ProjectMemory:
  """Makes KeyValues of a layer's memory [B, M, D]; x passes through."""

  def __call__(self, layer: Layer, x: jax.Array, past: jax.Array) -> tuple[jax.Array, KeyValues]:
    return x, layer.attention.key_values(layer.before_attention(past))


@flax.struct.dataclass
class ProjectPositions:
  """Makes a layer's position keys of R [S, D]; x passes through."""

  relative: jax.Array

  def __call__(self, layer: Layer, x: jax.Array, past: None) -> tuple[jax.Array, jax.Array]:
    return x, layer.attention.project_positions(self.relative)
