"""Attention over [memory | segment] with relative positions (arXiv:1901.02860, section 3.3) or rotary ones."""

import functools
import math
from typing import Sequence

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt4x.models import flash
from gpt4x.models.config import TransformerConfig
from gpt4x.models.layers import constrain, kernel_init, linear, param, residual_scale


@flax.struct.dataclass
class KeyValues:
  """Projected keys and values of a layer's past, [G, B, M, K] each, rotary positions not yet applied.

  Heads come first: what one multiplies then lies together, and meets R in one product.
  """

  keys: jax.Array
  values: jax.Array


@flax.struct.dataclass
class RingKeyValues:
  """Keys (rotary: rotated by their slot) and values of the last W positions: position p lies in slot p mod W.

  They are [B, G, W, K], so that what a step reads of a head lies in one piece; but there is no axis for a single row
  or head, for XLA would leave it out of the products, which on CPU would then read a copy of the whole ring.
  """

  keys: jax.Array
  values: jax.Array


@flax.struct.dataclass
class StepConstants:
  """What a layer makes of its parameters, once, for all steps of decoding.

  kernel: [D, G, H / G + 2, K], the kernels of each group's queries, key and value, for one product in place of three.
  relative_keys: [G, W, K], the projected R of the distances W - 1, ..., 0; None for rotary positions.
  """

  kernel: jax.Array
  relative_keys: jax.Array | None = None


@flax.struct.dataclass
class Segments:
  """What the fused kernel has in place of masks: the documents of queries [B, L] and keys [B, T], and the window."""

  queries: jax.Array
  keys: jax.Array
  window: int | None = flax.struct.field(pytree_node=False, default=None)


def attention_mask(query_segments: jax.Array, key_segments: jax.Array, window: int | None = None,
                   prefix: jax.Array | None = None) -> jax.Array:
  """True where query i [B, L] may see key j [B, T]: same document, not later, closer than `window`.

  The L queries are the last of the T keys. Segment id 0 marks padding and empty memory, which only padding sees.
  `prefix` [B, L] marks positions of the segment that see each other in both directions (prefix LM).
  """
  length, total = query_segments.shape[1], key_segments.shape[1]
  distance = jnp.arange(total - length, total)[:, None] - jnp.arange(total)
  allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
  if prefix is not None:
    prefix_keys = jnp.pad(prefix, ((0, 0), (total - length, 0)))
    allowed = allowed | ((prefix[:, :, None] > 0) & (prefix_keys[:, None, :] > 0))
  return allowed & (query_segments[:, :, None] == key_segments[:, None, :])


def fused_attention(query: jax.Array, position_query: jax.Array | None, keys: jax.Array, values: jax.Array,
                    relative_keys: jax.Array | None, segments: Segments) -> jax.Array:
  """flash.relative_attention of [G, B, H / G, L, K] and [G, B, T, K], on every device of the mesh.

  The compiler cannot split a kernel: each device has its rows and heads, or all rows where they do not divide.
  """
  rows_first = lambda x: jnp.moveaxis(x, 1, 0)
  queries = jax.tree.map(lambda x: jax.lax.collapse(rows_first(x), 1, 3), (query, position_query))
  inputs = *queries, rows_first(keys), rows_first(values), relative_keys, segments.queries, segments.keys
  run = functools.partial(flash.relative_attention, window=segments.window)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size > 1:
    batch, heads = nn_partitioning.logical_to_mesh_axes(("batch", "heads"))
    shards = math.prod(mesh.shape[axis] for axis in ((batch,) if isinstance(batch, str) else batch or ()))
    batch = None if query.shape[1] % shards else batch
    split, rows = PartitionSpec(batch, heads), PartitionSpec(batch)
    specs = [None if x is None else spec
             for x, spec in zip(inputs, [split] * 4 + [PartitionSpec(heads)] + [rows] * 2)]
    run = jax.shard_map(run, in_specs=tuple(specs), out_specs=split, check_vma=False)
  return jnp.moveaxis(run(*inputs).reshape(rows_first(query).shape), 0, 1)


def sinusoid(distance: jax.Array, dim: int) -> jax.Array:
  """R(distance) [..., D]: sines, then cosines, of distance / 10000^(2i / D)."""
  angles = distance[..., None] * 10_000.0 ** (-jnp.arange(0, dim, 2) / dim)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def rotate(x: jax.Array, position: jax.Array, base: float) -> jax.Array:
  """Rotary embedding of x [..., P, K] at positions [P], its two halves paired."""
  dim = x.shape[-1]
  angles = position[:, None] * base ** (-jnp.arange(0, dim, 2) / dim)
  sin, cos = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
  x1, x2 = jnp.split(x, 2, -1)
  return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)


def relative_shift(scores: jax.Array, length: int, total: int) -> jax.Array:
  """Turns scores by distance [..., L, S] into scores by key [..., L, T]; column s is distance T - 1 - s, S > T.

  Query i meets key j at column j + L - 1 - i: in the flattened matrix rows then lie S - 1 apart, so one slice and
  one reshape move every row into place (the paper's appendix B). The rows may be those of several matrices.
  """
  *batch, rows, columns = scores.shape
  scores = jax.lax.optimization_barrier(scores)  # Of its gradient: made once, for both factors of the product.
  flat = scores.reshape(*batch, rows // length, length * columns)
  # Split, not sliced: the gradient is then joined, not padded, which takes XLA's CPU backend a fifth of the time.
  _, flat, _ = jnp.split(flat, (length - 1, length * columns - 1), -1)
  return flat.reshape(*batch, rows, columns - 1)[..., :total]


class Attention(nn.Module):
  """Multi-head (or grouped-query) attention; one set of parameters for segments and for single decoded tokens."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    query, key = (c.embed_dim, c.num_heads, c.head_dim), (c.embed_dim, c.num_kv_heads, c.head_dim)
    axes, init = ("embed", "heads", "kv"), kernel_init(0, (1, 2))
    self.query = param(self, "query", init, query, axes)
    self.key = param(self, "key", init, key, axes)
    self.value = param(self, "value", init, key, axes)
    self.out = param(self, "out", kernel_init((0, 1), 2, residual_scale(c)), query[1:] + query[:1],
                     ("heads", "kv", "embed"))
    if c.positions == "relative":
      self.relative_key = param(self, "relative_key", init, key, axes)
      if c.untie_biases:
        self.biases = position_biases(self, c)
    self.dropout = nn.Dropout(c.attention_dropout_rate)

  def __call__(self, x: jax.Array, memory: jax.Array | KeyValues, masks: Sequence[jax.Array] | Segments,
               relative_keys: jax.Array | None, biases: tuple[jax.Array, jax.Array] | None,
               deterministic: bool) -> tuple[jax.Array, KeyValues]:
    """Attends from a segment to its memory and itself.

    Args:
      x: [B, L, D], the (normed) segment.
      memory: [B, M, D], the layer's (normed) past inputs, whose projections are trained; or their KeyValues.
      masks: of each chunk of C queries in turn [B, C, P], True where a query sees a key; of the keys, T = M + L in
        all, the first P are those that are not ahead of the whole chunk. Segments: by the fused kernel.
      relative_keys: [G, S, K], the projected R of the distances T - 1, T - 2, ..., T - S; None for rotary positions.
      biases: u and v, [H, K] each, where all layers share them.
      deterministic: no dropout.

    Returns:
      [B, L, D] and the KeyValues of all T positions.
    """
    c = self.config
    query = constrain(linear(x, self.query), ("batch", "length", "heads", "kv"))
    query = jnp.einsum("blgrk->gbrlk", self.group(query))
    # Projected apart: post-norm memory takes no gradient, and so that product of the backward pass is not made.
    old = memory if isinstance(memory, KeyValues) else self.key_values(memory)
    past = jax.tree.map(lambda old, new: jnp.concatenate([old, new], 2), old, self.key_values(x))
    length, total = x.shape[1], past.keys.shape[2]
    keys, values, position_query = past.keys, past.values, None
    if c.positions == "relative":
      u, v = (self.group(bias)[:, None, :, None] for bias in (self.biases if c.untie_biases else biases))
      query, position_query = query + u, query + v
    else:
      query = rotate(query, jnp.arange(total - length, total), c.rotary_base)
      keys = rotate(keys, jnp.arange(total), c.rotary_base)
    if isinstance(masks, Segments):
      return self.project_out(fused_attention(query, position_query, keys, values, relative_keys, masks)), past
    query, position_query = jax.tree.map(lambda x: x * c.head_dim**-0.5, (query, position_query))
    rng = None if deterministic or not c.attention_dropout_rate else self.make_rng("dropout")
    attend = functools.partial(self.attend, deterministic=deterministic)
    if len(masks) > 1:
      attend = jax.checkpoint(attend)  # The backward pass makes its scores again: those of one chunk exist at a time.
    parts, start = [], 0
    for i, mask in enumerate(masks):
      stop, seen = start + mask.shape[1], mask.shape[2]
      queries = jax.tree.map(lambda x: x[:, :, :, start:stop], (query, position_query))
      distances = None if relative_keys is None else relative_keys[:, total - seen:]
      parts.append(attend(*queries, keys[:, :, :seen], values[:, :, :seen], distances, mask,
                          None if rng is None else jax.random.fold_in(rng, i)))
      start = stop
    mixed = jnp.concatenate(parts, 3)
    return self.project_out(constrain(mixed, ("heads", "batch", None, "length", "kv"))), past

  def attend(self, query, position_query, keys, values, relative_keys, mask, rng, deterministic) -> jax.Array:
    """What C queries [G, B, H / G, C, K] mix of the P values [G, B, P, K] that mask [B, C, P] lets them see."""
    kv_heads, batch, groups, length, dim = query.shape
    rows = lambda x: x.reshape(kv_heads, batch, groups * length, dim)  # Q = H / G * C rows meet the same keys.
    scores = jnp.einsum("gbqk,gbtk->gbqt", rows(query), keys, preferred_element_type=jnp.float32)
    if position_query is not None:
      # All rows as one axis, of which the gradients are sums.
      by_distance = jnp.einsum("gnk,gsk->gns", position_query.reshape(kv_heads, -1, dim), relative_keys,
                               preferred_element_type=jnp.float32)
      scores += relative_shift(by_distance, length, keys.shape[2]).reshape(scores.shape)
    scores = constrain(scores, ("heads", "batch", "length", None))
    # Added, not selected: the backward pass has nothing to do.
    scores += jnp.tile(jnp.where(mask, 0, flash.MASKED), (1, groups, 1))
    # A softmax whose division comes last, where there are K values to divide and not P.
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True)))
    norm = jnp.sum(weights, -1, keepdims=True)
    weights = self.dropout(weights.astype(values.dtype), deterministic=deterministic, rng=rng)
    mixed = jnp.einsum("gbqt,gbtk->gbqk", weights, values, preferred_element_type=jnp.float32)
    return (mixed / norm).astype(values.dtype).reshape(query.shape)

  def step(self, x: jax.Array, ring: RingKeyValues, constants: StepConstants, mask: jax.Array, index: jax.Array,
           biases: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, RingKeyValues]:
    """Attends from one token x [B, 1, D] at position `index` to the W latest, itself included; mask [B, W] by slot."""
    c = self.config
    *heads, window, _ = ring.keys.shape  # B and G, or one of them.
    slot = index % window
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    projected = jnp.einsum("bd,dgck->bgck", x[:, 0], constants.kernel)
    query, key, value = projected[:, :, :-2], projected[:, :, -2:-1], projected[:, :, -1:]

    def rotated(x, position):
      return rotate(x, position[None], c.rotary_base)

    def put(past, new):
      return jax.lax.dynamic_update_slice_in_dim(past, new.reshape(*heads, 1, c.head_dim), slot, len(heads))

    def content(query):
      return product("...rk,...tk->...rt", query.reshape(*heads, -1, c.head_dim), keys)

    keys = put(ring.keys, rotated(key, slot) if c.positions == "rotary" else key)
    values = put(ring.values, value)
    if c.positions == "relative":
      u, v = (self.group(bias) for bias in (self.biases if c.untie_biases else biases))
      by_distance = product("bgrk,gsk->bgrs", query + v, constants.relative_keys)
      # The last column, distance 0, comes to the token's slot.
      scores = content(query + u) + jnp.roll(by_distance, slot + 1, -1).reshape(*heads, -1, window)
    else:
      # A key was rotated by its slot, so one that lies ahead of the query in the ring is a whole turn behind it.
      scores = jnp.where(jnp.arange(window) <= slot, content(rotated(query, slot)),
                         content(rotated(query, slot + window)))
    scores = scores.reshape(len(x), c.num_heads, window) * c.head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, flash.MASKED)).astype(x.dtype)
    mixed = jnp.einsum("...rt,...tk->...rk", weights.reshape(*heads, -1, window), values)
    # XLA's CPU backend gives one core a small matrix and a vector, and two cores a batch of two of them: of its halves.
    parts = 2 if len(x) == 1 and c.num_heads * c.head_dim % 2 == 0 else 1
    out = jnp.einsum("bpi,pid->pbd", mixed.reshape(len(x), parts, -1), self.out.reshape(parts, -1, c.embed_dim))
    return jnp.sum(out, 0)[:, None], RingKeyValues(keys, values)

  def ring(self, past: KeyValues) -> tuple[RingKeyValues, StepConstants]:
    """Makes the ring from the KeyValues of W positions, the oldest of which comes to lie in slot 0."""
    groups, rows, window, _ = past.keys.shape
    keys, relative_keys = past.keys, None
    if self.config.positions == "rotary":
      keys = rotate(keys, jnp.arange(window), self.config.rotary_base)
    else:
      relative_keys = self.relative_keys(relative_positions(self.config, jnp.arange(window)[::-1]))
    single = [axis for axis, size in enumerate((rows, groups)) if size == 1]
    ring = RingKeyValues(*(jnp.squeeze(jnp.swapaxes(x, 0, 1), single) for x in (keys, past.values)))
    kernels = [self.group(self.query), self.key[:, :, None], self.value[:, :, None]]
    return ring, StepConstants(jnp.concatenate(kernels, 2), relative_keys)

  def key_values(self, x: jax.Array) -> KeyValues:
    def project(kernel):
      return jnp.einsum("btgk->gbtk", constrain(linear(x, kernel), ("batch", "length", "heads", "kv")))

    return KeyValues(project(self.key), project(self.value))

  def relative_keys(self, relative: jax.Array) -> jax.Array:
    """R [S, D] -> [G, S, K]."""
    return jnp.einsum("sd,dgk->gsk", relative, self.relative_key)

  def group(self, query: jax.Array) -> jax.Array:
    """[..., H, K] -> [..., G, H / G, K]: head h shares the keys of head h // (H / G)."""
    return query.reshape(*query.shape[:-2], self.config.num_kv_heads, -1, query.shape[-1])

  def project_out(self, mixed: jax.Array) -> jax.Array:
    """What G heads times H / G queries mixed, [G, B, H / G, L, K] -> [B, L, D]."""
    mixed = jnp.einsum("gbrlk->blgrk", mixed)
    return linear(jax.lax.collapse(mixed, 2, 4), self.out, 2)


def position_biases(module: nn.Module, config: TransformerConfig) -> tuple[jax.Array, jax.Array]:
  """The paper's u (content) and v (position), [H, K] each."""
  shape, axes = (config.num_heads, config.head_dim), ("heads", "kv")
  return tuple(param(module, name, nn.initializers.zeros, shape, axes) for name in ("content_bias", "position_bias"))


def relative_positions(config: TransformerConfig, distance: jax.Array) -> jax.Array:
  """R for each distance, [..., D], with the configuration's clamping, in the compute dtype."""
  if config.clamp_length is not None:
    distance = jnp.clip(distance, -config.clamp_length, config.clamp_length)
  return sinusoid(distance, config.embed_dim).astype(config.compute_dtype)
