"""The Transformer-XL stack (arXiv:1901.02860): layers scanned over their parameters and over the memory."""

import functools
from typing import Any, Sequence

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import flax.struct
import jax
import jax.numpy as jnp

from gpt4x.models import attention
from gpt4x.models.attention import KeyValues, RingKeyValues, StepConstants
from gpt4x.models.config import TransformerConfig
from gpt4x.models.layers import MLP, Norm, Vocabulary, constrain
from gpt4x.models.moe import MoE

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "dots_no_batch": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
}


@flax.struct.dataclass
class Memory:
  """What the stack remembers of its past; a fresh one is all zeros.

  layers: each layer's inputs [N, B, M, D]; or, for evaluation, their KeyValues (same logits, less work).
  segment_ids: [B, M], the document of each position, 0 where there is none.
  relative_keys: [N, G, S, K], the projected R of the distances S - 2, ..., 0, -1, which `project_positions` makes once
    for many segments; None: each makes its own.
  """

  layers: jax.Array | KeyValues
  segment_ids: jax.Array
  relative_keys: jax.Array | None = None

  @property
  def length(self) -> int:
    return self.segment_ids.shape[1]


@flax.struct.dataclass
class Cache:
  """The memory while decoding: a ring of the last W positions, the next of which is `index`.

  Of the layers there is a list, or one whose leaves have a leading axis N, as layers that are scanned have it.
  """

  rings: list[RingKeyValues] | RingKeyValues
  constants: list[StepConstants] | StepConstants
  segment_ids: jax.Array  # [B, W]
  index: jax.Array  # []


@flax.struct.dataclass
class Shared:
  """What all layers have in common in one call."""

  # Of each chunk of queries [B, C, P]; or one, [B, W] by slot, when decoding; or the fused kernel's Segments.
  masks: Any = None
  biases: tuple[jax.Array, jax.Array] | None = None  # u and v, [H, K].
  relative: jax.Array | None = None  # R, [S, D]; None where it is projected already.
  real: jax.Array | None = None  # [B, L], False for padding.
  index: jax.Array | None = None
  deterministic: bool = flax.struct.field(pytree_node=False, default=True)


class Layer(nn.Module):
  """Attention and MLP, each with its norm and residual. Every method maps (x, past, shared) -> (x, new)."""

  config: TransformerConfig
  mixture: bool = False  # Of experts, in place of the MLP.

  def setup(self):
    self.attention_norm, self.mlp_norm = Norm(self.config), Norm(self.config)
    self.attention = attention.Attention(self.config)
    if self.mixture:
      self.moe = MoE(self.config)
    else:
      self.mlp = MLP(self.config)
    self.dropout = nn.Dropout(self.config.dropout_rate)

  @property
  def pre(self):
    return self.config.norm_position == "pre"

  def __call__(self, x: jax.Array, past: tuple[jax.Array | KeyValues, jax.Array | None], shared: Shared):
    """x [B, L, D], memory ([B, M, D] or KeyValues) and relative_keys -> x and the memory, L positions on."""
    memory, relative_keys = past
    if shared.relative is not None:
      relative_keys = self.attention.relative_keys(shared.relative)

    def attend(normed, past):
      return self.attention(normed, past, shared.masks, relative_keys, shared.biases, shared.deterministic)

    if self.config.empty_memory == "zeros":
      x = jnp.where(shared.real[..., None], x, 0)
    normed = self.attention_norm(x) if self.pre else x
    if isinstance(memory, KeyValues):
      attended, past = attend(normed, memory)
      new_memory = jax.tree.map(lambda old, now: now[:, :, now.shape[2] - old.shape[2]:], memory, past)
    else:
      new_memory = jnp.concatenate([memory, x], 1)[:, x.shape[1]:]
      attended, _ = attend(normed, self.attention_norm(memory) if self.pre else memory)
    return self.finish(x, attended, shared), new_memory

  def step(self, x: jax.Array, memory: tuple[RingKeyValues, StepConstants], shared: Shared):
    """The same for one token [B, 1, D], a ring of keys and values, which is moved on, and constants."""
    normed = self.attention_norm(x) if self.pre else x
    attended, ring = self.attention.step(normed, *memory, shared.masks, shared.index, shared.biases)
    return self.finish(x, attended, shared), ring

  def ring(self, x: jax.Array, memory: KeyValues, shared: Shared):
    return x, self.attention.ring(memory)

  def relative_keys(self, x: jax.Array, past: None, shared: Shared):
    return x, self.attention.relative_keys(shared.relative)

  def finish(self, x: jax.Array, attended: jax.Array, shared: Shared) -> jax.Array:
    x = x + self.dropout(attended, deterministic=shared.deterministic)
    if not self.pre:
      x = self.attention_norm(x)
    x = constrain(x, ("batch", "residual_length", "embed"))
    normed = self.mlp_norm(x) if self.pre else x
    hidden = self.moe(normed, shared.real, shared.deterministic) if self.mixture else self.mlp(normed)
    x = x + self.dropout(hidden, deterministic=shared.deterministic)
    if not self.pre:
      x = self.mlp_norm(x)
    return constrain(x, ("batch", "residual_length", "embed"))


class Block(nn.Module):
  """The layers after which they repeat, with the methods of one; the memory has a leading axis for them."""

  config: TransformerConfig
  layer: type[Layer]

  def setup(self):
    c = self.config
    self.layers = [self.layer(c, c.is_mixture(i)) for i in range(c.period // c.share_layers)]

  def __call__(self, x: jax.Array, memory: Any, shared: Shared):
    return run_layers(self.layers * self.config.share_layers, "__call__", x, memory, shared)

  def step(self, x: jax.Array, memory: Any, shared: Shared):
    return run_layers(self.layers * self.config.share_layers, "step", x, memory, shared)

  def ring(self, x: jax.Array, memory: Any, shared: Shared):
    return run_layers(self.layers * self.config.share_layers, "ring", x, memory, shared)

  def relative_keys(self, x: jax.Array, past: None, shared: Shared):
    return run_layers(self.layers * self.config.share_layers, "relative_keys", x, past, shared)


def run_layers(layers: Sequence[Layer], method: str, x: jax.Array, memory: Any, shared: Shared):
  """Applies a method of each layer in turn; memory is a list of theirs, or its leaves have a leading axis for them."""
  memories = []
  for layer, past in zip(layers, memory if isinstance(memory, list) else unstack(memory, len(layers))):
    x, new = getattr(layer, method)(x, past, shared)
    memories.append(new)
  return x, memories if isinstance(memory, list) else jax.tree.map(lambda *leaves: jnp.stack(leaves), *memories)


def unstack(memory: Any, count: int) -> list[Any]:
  return [jax.tree.map(lambda leaf: leaf[i], memory) for i in range(count)]


class TransformerXL(nn.Module):
  """tokens [B, L] and memory -> hidden [B, L, D] and the memory L positions on; `logits` for the rest."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    self.vocabulary = Vocabulary(c)
    self.dropout = nn.Dropout(c.dropout_rate)
    if c.positions == "relative" and not c.untie_biases:
      self.biases = attention.position_biases(self, c)
    if c.norm_position == "pre":
      self.final_norm = Norm(c)
    layer = Layer
    if c.remat != "none":
      layer = nn_partitioning.remat(layer, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan_layers,
                                    methods=["__call__"])
    if c.scan_layers:
      scan = functools.partial(
          nn_partitioning.scan_with_axes, variable_axes={"params": 0, "router": 0},
          split_rngs={"params": True, "dropout": True}, in_axes=(0, nn.broadcast), length=c.num_layers // c.period,
          axis_name="layers", methods=["__call__", "step", "ring", "relative_keys"])
      self.layers = scan(layer)(c, c.is_mixture(0)) if c.period == 1 else scan(Block)(c, layer)
    else:
      self.layers = [layer(c, c.is_mixture(i)) for i in range(c.num_layers // c.share_layers)]

  def __call__(self, tokens: jax.Array, memory: Memory, segment_ids: jax.Array | None = None,
               prefix: jax.Array | None = None, window: int | None = None, deterministic: bool = True):
    """Runs a segment.

    Args:
      tokens: [B, L] int32.
      memory: of any length M, zero included; the memory returned has the same length and kind.
      segment_ids: [B, L], the document each token belongs to, 0 for padding; None: one document, 1.
      prefix: [B, L], above 0 where tokens of a document see each other in both directions.
      window: no token sees further back than this many positions, itself included.
      deterministic: no dropout.

    Returns:
      hidden [B, L, D] and the new Memory.
    """
    c = self.config
    length, total = tokens.shape[1], memory.length + tokens.shape[1]
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
    key_segments = jnp.concatenate([memory.segment_ids, segment_ids], 1)
    if window is None and c.same_length and memory.length:
      window = memory.length
    relative, relative_keys = None, memory.relative_keys
    if relative_keys is not None and prefix is None and relative_keys.shape[2] > total:
      relative_keys = relative_keys[:, :, -total - 1:]
    elif c.positions == "relative":
      # One column more than there are keys (see relative_shift); a prefix looks ahead, at negative distances.
      columns = total + max(1, length - 1 if prefix is not None else 1)
      relative = attention.relative_positions(c, jnp.arange(total - 1, total - 1 - columns, -1))
      relative = self.dropout(relative, deterministic=deterministic)
    if c.attention_kernel == "flash" and prefix is None:
      masks = attention.Segments(self.attended(segment_ids), self.attended(key_segments), window)
    else:
      # A prefix is seen from before it, so its queries are not cut into chunks that do not see ahead.
      chunk = (prefix is None and c.attention_chunk) or length
      masks = [attention.attention_mask(self.attended(segment_ids[:, start:start + chunk]),
                                        self.attended(key_segments[:, :memory.length + start + chunk]), window, prefix)
               for start in range(0, length, chunk)]
    shared = Shared(masks=masks, relative=relative, biases=self.shared_biases(), real=segment_ids > 0,
                    deterministic=deterministic)
    x = self.dropout(self.vocabulary.embed(tokens), deterministic=deterministic)
    x, layers = self.run("__call__", x, (memory.layers, relative_keys), shared)
    memory = memory.replace(layers=jax.lax.stop_gradient(layers), segment_ids=key_segments[:, length:])
    return self.last(x, deterministic), memory

  def project_positions(self, memory: Memory, length: int) -> Memory:
    """The memory with its relative_keys, for segments of up to `length` tokens that leave out dropout and prefixes."""
    if self.config.positions != "relative":
      return memory
    relative = attention.relative_positions(self.config, jnp.arange(memory.length + length - 1, -2, -1))
    nothing = jnp.zeros((), self.config.compute_dtype)
    return memory.replace(relative_keys=self.run("relative_keys", nothing, None, Shared(relative=relative))[1])

  def step(self, tokens: jax.Array, cache: Cache, segment_ids: jax.Array):
    """Decodes one position: tokens and segment_ids [B] -> hidden [B, 1, D] and the cache one position on."""
    window = cache.segment_ids.shape[1]
    slots = cache.segment_ids.at[:, cache.index % window].set(segment_ids)
    shared = Shared(masks=self.attended(slots) == segment_ids[:, None], biases=self.shared_biases(), index=cache.index,
                    real=segment_ids[:, None] > 0)
    layers = cache.rings, cache.constants
    layers = list(zip(*layers)) if isinstance(cache.rings, list) else layers
    x, rings = self.run("step", self.vocabulary.embed(tokens[:, None]), layers, shared)
    return self.last(x, True), cache.replace(rings=rings, segment_ids=slots, index=cache.index + 1)

  def ring(self, memory: Memory) -> Cache:
    """Turns a memory of KeyValues into the decoding cache of the same W positions."""
    # A step would copy all of what is stacked: where layers are not scanned, they stay apart.
    past = memory.layers if self.config.scan_layers else unstack(memory.layers, self.config.num_layers)
    _, layers = self.run("ring", jnp.zeros((), self.config.compute_dtype), past, Shared())
    rings, constants = map(list, zip(*layers)) if isinstance(layers, list) else layers
    return Cache(rings, constants, memory.segment_ids, jnp.zeros((), jnp.int32))

  def logits(self, hidden: jax.Array) -> jax.Array:
    """hidden [B, L, D] -> float32 logits [B, L, V]."""
    return constrain(self.vocabulary.logits(hidden), ("batch", "length", "vocab"))

  def output(self, hidden: jax.Array):
    return self.vocabulary.output(hidden)

  def run(self, method: str, x: jax.Array, memory: Any, shared: Shared):
    """Applies a method of every layer in turn; memory's leaves have a leading axis N (or see run_layers)."""
    n, period = self.config.num_layers, self.config.period
    if not self.config.scan_layers:
      return run_layers([self.layers[i // self.config.share_layers] for i in range(n)], method, x, memory, shared)
    if period == 1:
      return getattr(self.layers, method)(x, memory, shared)
    blocks = jax.tree.map(lambda leaf: leaf.reshape(n // period, period, *leaf.shape[1:]), memory)
    x, blocks = getattr(self.layers, method)(x, blocks, shared)
    return x, jax.tree.map(lambda leaf: leaf.reshape(n, *leaf.shape[2:]), blocks)

  def attended(self, segment_ids: jax.Array) -> jax.Array:
    """The document that attends to each position: to zeros in empty ones, if the configuration says so, the first."""
    return jnp.maximum(segment_ids, 1) if self.config.empty_memory == "zeros" else segment_ids

  def shared_biases(self):
    return self.biases if self.config.positions == "relative" and not self.config.untie_biases else None

  def last(self, x: jax.Array, deterministic: bool) -> jax.Array:
    x = self.final_norm(x) if self.config.norm_position == "pre" else x
    return self.dropout(x, deterministic=deterministic)
