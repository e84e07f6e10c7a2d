"""Attention over [memory | segment] with relative positions (arXiv:1901.02860, section 3.3) or rotary ones."""

from collections.abc import Callable
import functools
import itertools
import math

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt4x.models import flash
from gpt4x.models.config import TransformerConfig
from gpt4x.models.integer_products import rows_by_columns, rows_by_rows
from gpt4x.models.layers import constrain, Norm, residual_scale
from gpt4x.models.masks import Mask
from gpt4x.models.memory import KeyValues, RingKeyValues, StepConstants
from gpt4x.models.parameters import HEADS, joined, kernel_init, param, product, product_of_rows
from gpt4x.models.rounding import rounded, Rows

# What attention takes of a mask: the boolean blocks of its chunks of queries; the fused kernel takes the mask itself.
Prepared = list[jax.Array] | Mask


def prepare(config: TransformerConfig, mask: Mask) -> Prepared:
  """What the layers' attention takes of a mask; made once for all of them."""
  if config.attention_kernel == "flash" and mask.prefix is None:  # The fused kernel never looks ahead.
    return mask
  return mask.blocks(config.attention_chunk)


def fused_attention(query: jax.Array, position_query: jax.Array | None, keys: jax.Array, values: jax.Array,
                    position_keys: jax.Array | None, mask: Mask) -> jax.Array:
  """flash.relative_attention of [G, B, H / G, L, K] and [G, B, T, K], on every device of the mesh.

  The compiler cannot split a kernel: each device has its rows and heads, or all rows where they do not divide.
  """
  rows_first = lambda x: jnp.moveaxis(x, 1, 0)
  queries = jax.tree.map(lambda x: jax.lax.collapse(rows_first(x), 1, 3), (query, position_query))
  inputs = *queries, rows_first(keys), rows_first(values), position_keys, mask.queries, mask.keys
  run = functools.partial(flash.relative_attention, window=mask.window)
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
  scores = jax.lax.optimization_barrier(scores)  # So that its gradient is made once, for both factors of the product.
  flat = scores.reshape(*batch, rows // length, length * columns)
  # Split, not sliced: its gradient is a join, not a pad, for XLA's CPU backend 0.9 against 4.9 ms.
  _, flat, _ = jnp.split(flat, (length - 1, length * columns - 1), -1)
  return flat.reshape(*batch, rows, columns - 1)[..., :total]


class Attention(nn.Module):
  """Multi-head (or grouped-query) attention; one set of parameters for segments and for single decoded tokens."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    query, key = (c.embed_dim, c.num_heads, c.head_dim), (c.embed_dim, c.num_kv_heads, c.head_dim)

    def project(name, shape):
      return param(self, name, kernel_init(0, (1, 2)), shape, ("embed", *HEADS), ("embed",))

    self.query = project("query", query)
    self.key = project("key", key)
    self.value = project("value", key)
    self.out = param(self, "out", kernel_init((0, 1), 2, residual_scale(c)), query[1:] + query[:1],
                     ("heads", "kv", "embed"), ("heads", "kv"))
    if c.qkv_bias:
      bias = lambda name, shape: param(self, f"{name}_bias", nn.initializers.zeros, shape[1:], HEADS)
      self.query_bias, self.key_bias, self.value_bias = bias("query", query), bias("key", key), bias("value", key)
    if c.qk_norm:
      self.query_norm, self.key_norm = Norm(c, "rms", "kv"), Norm(c, "rms", "kv")
    if c.positions == "relative":
      self.relative_key = project("relative_key", key)
      if c.untie_biases:
        self.biases = position_biases(self, c)
    self.dropout = nn.Dropout(c.attention_dropout_rate)

  def __call__(self, x: jax.Array, memory: jax.Array | KeyValues, mask: Prepared, position_keys: jax.Array | None,
               biases: tuple[jax.Array, jax.Array] | None, deterministic: bool) -> tuple[jax.Array, KeyValues]:
    """Attends from a segment to its memory and itself.

    Args:
      x: [B, L, D], the (normed) segment.
      memory: [B, M, D], the layer's (normed) past inputs, whose projections are trained; or their KeyValues.
      mask: of the L queries and the T = M + L keys, as `prepare` makes it.
      position_keys: [G, S, K], the projected R of the distances T - 1, T - 2, ..., T - S; None for rotary positions.
      biases: u and v, [H, K] each, where all layers share them.
      deterministic: no dropout.

    Returns:
      [B, L, D] and the KeyValues of the segment.
    """
    c = self.config
    query = self.queries(constrain(product(x, self.query), ("batch", "length", "heads", "kv")))
    query = jnp.einsum("blgrk->gbrlk", self.group(query))
    # Memory is projected separately: with post-norm it needs no gradient, which saves one backward product.
    old = memory if isinstance(memory, KeyValues) else self.key_values(memory)
    new = self.key_values(x)
    length, total = x.shape[1], old.keys.shape[2] + x.shape[1]
    parts = [old, new]  # As long as the scores of both are less to join than the keys and values are.
    few = c.num_heads // c.num_kv_heads * length < 2 * c.head_dim
    if not (few and isinstance(memory, KeyValues) and isinstance(mask, list) and len(mask) == 1):
      parts = [jax.tree.map(lambda old, new: jnp.concatenate([old, new], 2), old, new)]
    keys, values, position_query = [part.keys for part in parts], [part.values for part in parts], None
    if c.positions == "relative":
      u, v = (self.group(bias)[:, None, :, None] for bias in (self.biases if c.untie_biases else biases))
      query, position_query = query + u, query + v
    else:
      query = rotate(query, jnp.arange(total - length, total), c.rotary_base)
      ends = itertools.accumulate(part.shape[2] for part in keys)
      keys = [rotate(part, jnp.arange(end - part.shape[2], end), c.rotary_base) for part, end in zip(keys, ends)]
    if c.memory_dtype == "int8" and isinstance(memory, KeyValues):  # As decoding sees them.
      keys, values, position_keys = jax.tree.map(lambda x: rounded(x).dense(x.dtype), (keys, values, position_keys))
    if isinstance(mask, Mask):
      return self.project_out(fused_attention(query, position_query, keys[0], values[0], position_keys, mask)), new
    query, position_query = jax.tree.map(lambda x: x * c.head_dim**-0.5, (query, position_query))
    rng = None if deterministic or not c.attention_dropout_rate else self.make_rng("dropout")
    attend: Callable[..., jax.Array] = functools.partial(self.attend, deterministic=deterministic)
    if len(mask) > 1:
      attend = jax.checkpoint(attend)  # The backward pass makes its scores again: those of one chunk exist at a time.
    mixed, start = list[jax.Array](), 0
    for i, block in enumerate(mask):
      stop, seen = start + block.shape[1], block.shape[2]
      queries = jax.tree.map(lambda x: x[:, :, :, start:stop], (query, position_query))
      distances = None if position_keys is None else position_keys[:, total - seen:]
      mixed.append(attend(*queries, *jax.tree.map(lambda x: x[:, :, :seen], (keys, values)), distances, block,
                          None if rng is None else jax.random.fold_in(rng, i)))
      start = stop
    return self.project_out(constrain(jnp.concatenate(mixed, 3), ("heads", "batch", None, "length", "kv"))), new

  def attend(self, query, position_query, keys, values, position_keys, mask, rng, deterministic) -> jax.Array:
    """What C queries [G, B, H / G, C, K] mix of the P values that mask [B, C, P] lets them see.

    Keys and values [G, B, ., K] come in one part or several, which have P positions together.
    """
    kv_heads, batch, heads_per_key, length, dim = query.shape
    rows = lambda x: x.reshape(kv_heads, batch, heads_per_key * length, dim)  # Q = H / G * C rows meet the same keys.
    join = lambda parts: parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)
    scores = join([jnp.einsum("gbqk,gbtk->gbqt", rows(query), part, preferred_element_type=jnp.float32)
                   for part in keys])
    if position_query is not None:
      # All rows as one axis, of which the gradients are sums.
      by_distance = jnp.einsum("gnk,gsk->gns", position_query.reshape(kv_heads, -1, dim), position_keys,
                               preferred_element_type=jnp.float32)
      scores += relative_shift(by_distance, length, scores.shape[-1]).reshape(scores.shape)
    scores = constrain(scores, ("heads", "batch", "length", None))
    # Added, not selected by: the backward pass then has nothing to do.
    scores += jnp.tile(jnp.where(mask, 0, flash.MASKED), (1, heads_per_key, 1))
    # The softmax's division comes last: it then divides K values, not P weights.
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True)))
    norm = jnp.sum(weights, -1, keepdims=True)
    weights = self.dropout(weights.astype(values[0].dtype), deterministic=deterministic, rng=rng)
    parts = [weights] if len(values) == 1 else jnp.split(weights, [values[0].shape[2]], -1)
    mixed = functools.reduce(jnp.add, [
        jnp.einsum("gbqt,gbtk->gbqk", part, seen, preferred_element_type=jnp.float32)
        for part, seen in zip(parts, values)])
    return (mixed / norm).astype(values[0].dtype).reshape(query.shape)

  def step(self, x: jax.Array, ring: RingKeyValues, constants: StepConstants, mask: jax.Array, index: jax.Array,
           biases: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, RingKeyValues]:
    """Attends from one token x [B, 1, D] at position `index` to the W latest, itself included; mask [B, W] by slot."""
    c = self.config
    *heads, window, _ = jax.tree.leaves(ring.keys)[0].shape  # B and G, or one of them.
    slot = index % window
    projected = jnp.concatenate([product(x[:, 0], kernel) for kernel in constants.kernels], 1)
    query, key, value = jnp.split(projected, (c.num_heads, c.num_heads + c.num_kv_heads), 1)
    query, key, value = self.group(self.queries(query)), self.keys(key), self.values(value)

    def rotated(x, position):
      return rotate(x, position[None], c.rotary_base)

    def put(past, new):
      new = self.kept(new.reshape(*heads, 1, c.head_dim))
      return jax.tree.map(lambda one, row: jax.lax.dynamic_update_slice_in_dim(one, row, slot, len(heads)), past, new)

    def content(query):
      return dot_rows(query.reshape(*heads, -1, c.head_dim), keys)

    keys = put(ring.keys, rotated(key, slot) if c.positions == "rotary" else key)
    values = put(ring.values, value)
    if c.positions == "relative":
      u, v = (self.group(bias) for bias in (self.biases if c.untie_biases else biases))
      by_group = jnp.swapaxes(query + v, 0, 1).reshape(c.num_kv_heads, -1, c.head_dim)
      by_distance = dot_rows(by_group, constants.position_keys)
      by_distance = jnp.swapaxes(by_distance.reshape(c.num_kv_heads, len(x), -1, window), 0, 1)
      # The last column, distance 0, comes to the token's slot.
      scores = content(query + u) + jnp.roll(by_distance, slot + 1, -1).reshape(*heads, -1, window)
    else:
      # A key was rotated by its slot, so one that lies ahead of the query in the ring is a whole turn behind it.
      both = [rotated(query, slot + turn).reshape(*heads, -1, c.head_dim) for turn in (0, window)]
      scores = jnp.where(jnp.arange(window) <= slot, *jnp.split(content(jnp.concatenate(both, -2)), 2, -2))
    scores = scores.reshape(len(x), c.num_heads, window) * c.head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, flash.MASKED)).astype(x.dtype)
    mixed = mixed_rows(weights.reshape(*heads, -1, window), values).astype(x.dtype)
    out = product_of_rows(mixed.reshape(len(x), c.num_heads, c.head_dim), self.out)
    return out[:, None], RingKeyValues(keys, values)

  def ahead(self, x: jax.Array, ring: RingKeyValues, constants: StepConstants, mask: jax.Array, index: jax.Array,
            biases: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, RingKeyValues]:
    """Attends from k tokens of one row, x [1, k, D], the first at position `index`, as `step` from one to the next.

    The ring stays as it is: what would come into it is returned, [G, k, K]. The mask [k, W] is of what is in it.
    """
    c = self.config
    *heads, window, _ = jax.tree.leaves(ring.keys)[0].shape  # G, if it is more than one.
    count, groups = x.shape[1], c.num_kv_heads
    numbers, places = jnp.arange(count), jnp.arange(window)
    slots = (index + numbers) % window
    projected = jnp.concatenate([product(x[0], kernel) for kernel in constants.kernels], 1)
    query, key, value = jnp.split(projected, (c.num_heads, c.num_heads + groups), 1)
    query, key, value = self.group(self.queries(query)), self.keys(key), self.values(value)
    by_group = lambda rows: jnp.einsum("kgrd->grkd", rows)

    def new(rows):
      return self.kept(jnp.swapaxes(rows, 0, 1).reshape(*heads, count, c.head_dim))

    def scores(queries):
      """[G, H / G, k, W + k], against what is in the ring and what comes."""
      rows = queries.reshape(*heads, -1, c.head_dim)
      return jnp.concatenate([dot_rows(rows, past).reshape(groups, -1, count, past_length) for past, past_length in (
          (ring.keys, window), (keys, count))], -1)

    if c.positions == "relative":
      keys = new(key)
      u, v = (self.group(bias) for bias in (self.biases if c.untie_biases else biases))
      distances = dot_rows(by_group(query + v).reshape(groups, -1, c.head_dim), constants.position_keys)
      # The column of distance d is W - 1 - d.
      columns = jnp.concatenate([(places - slots[:, None] - 1) % window,
                                 (window - 1 - numbers[:, None] + numbers) % window], -1)
      found = scores(by_group(query + u)) + jnp.take_along_axis(
          distances.reshape(groups, -1, count, window), columns[None, None], -1)
    else:
      keys = new(rotate(jnp.swapaxes(key, 0, 1), slots, c.rotary_base).swapaxes(0, 1))
      # As in `step`: a key that lies ahead of the query in the ring is a whole turn behind it.
      behind = jnp.concatenate([places, slots]) <= slots[:, None]
      found = jnp.where(behind, *(scores(rotate(by_group(query), slots + turn, c.rotary_base))
                                  for turn in (0, window)))
    mask = jnp.concatenate([mask, numbers <= numbers[:, None]], -1)
    weights = jax.nn.softmax(jnp.where(mask, found * c.head_dim**-0.5, flash.MASKED)).astype(x.dtype)
    values, mixed = new(value), jnp.zeros((), x.dtype)
    for part, rows in zip(jnp.split(weights, [window], -1), (ring.values, values)):
      mixed += mixed_rows(part.reshape(*heads, -1, part.shape[-1]), rows).astype(x.dtype)
    mixed = jnp.einsum("grkd->kgrd", mixed.reshape(groups, -1, count, c.head_dim))
    return product_of_rows(mixed.reshape(count, c.num_heads, c.head_dim), self.out)[None], RingKeyValues(keys, values)

  def ring(self, past: KeyValues) -> tuple[RingKeyValues, StepConstants]:
    """Makes the ring from the KeyValues of W positions, the first of which comes to lie in slot 0."""
    groups, rows, window, _ = past.keys.shape
    keys, position_keys = past.keys, None
    if self.config.positions == "rotary":
      keys = rotate(keys, jnp.arange(window), self.config.rotary_base)
    else:
      position_keys = self.project_positions(relative_positions(self.config, jnp.arange(window)[::-1]))
    single = [axis for axis, size in enumerate((rows, groups)) if size == 1]
    ring = RingKeyValues(*(self.kept(jnp.squeeze(jnp.swapaxes(x, 0, 1), single)) for x in (keys, past.values)))
    kernels = tuple(kernel.for_steps() for kernel in joined([self.query, self.key, self.value], axis=1))
    return ring, StepConstants(kernels, None if position_keys is None else self.kept(position_keys))

  def kept(self, x: jax.Array) -> jax.Array | Rows:
    """Keys, values or projected R as they are kept while decoding."""
    return rounded(x) if self.config.memory_dtype == "int8" else x

  def key_values(self, x: jax.Array) -> KeyValues:
    def project(kernel, finish):
      return jnp.einsum("btgk->gbtk", finish(constrain(product(x, kernel), ("batch", "length", "heads", "kv"))))

    return KeyValues(project(self.key, self.keys), project(self.value, self.values))

  def queries(self, projected: jax.Array) -> jax.Array:
    """Queries [..., H, K] of what the kernel alone makes."""
    query = projected + self.query_bias if self.config.qkv_bias else projected
    return self.query_norm(query) if self.config.qk_norm else query

  def keys(self, projected: jax.Array) -> jax.Array:
    """Keys [..., G, K] likewise."""
    key = projected + self.key_bias if self.config.qkv_bias else projected
    return self.key_norm(key) if self.config.qk_norm else key

  def values(self, projected: jax.Array) -> jax.Array:
    """Values [..., G, K] likewise."""
    return projected + self.value_bias if self.config.qkv_bias else projected

  def project_positions(self, relative: jax.Array) -> jax.Array:
    """R [S, D] -> position keys [G, S, K]."""
    return jnp.swapaxes(product(relative, self.relative_key), 0, 1)

  def group(self, query: jax.Array) -> jax.Array:
    """[..., H, K] -> [..., G, H / G, K]: head h shares the keys of head h // (H / G)."""
    return query.reshape(*query.shape[:-2], self.config.num_kv_heads, -1, query.shape[-1])

  def project_out(self, mixed: jax.Array) -> jax.Array:
    """What G heads times H / G queries mixed, [G, B, H / G, L, K] -> [B, L, D]."""
    mixed = jnp.einsum("gbrlk->blgrk", mixed)
    return product(jax.lax.collapse(mixed, 2, 4), self.out)


def dot_rows(query: jax.Array, rows: jax.Array | Rows) -> jax.Array:
  """The float32 product of a query [..., r, K] and rows [..., t, K], whose steps come in behind it: [..., r, t]."""
  if isinstance(rows, Rows):
    return rows_by_columns(rows.values, rows.steps[..., 0], query)
  return jnp.einsum("...rk,...tk->...rt", query, rows, preferred_element_type=jnp.float32)


def mixed_rows(weights: jax.Array, rows: jax.Array | Rows) -> jax.Array:
  """The product of weights [..., r, t] and rows [..., t, K], whose steps come in before it: [..., r, K]."""
  if isinstance(rows, Rows):
    return rows_by_rows(rows.values, rows.steps[..., 0], weights)
  return jnp.einsum("...rt,...tk->...rk", weights, rows)


def position_biases(module: nn.Module, config: TransformerConfig) -> tuple[jax.Array, jax.Array]:
  """The paper's u (content) and v (position), [H, K] each."""
  shape, axes = (config.num_heads, config.head_dim), ("heads", "kv")
  return tuple(param(module, name, nn.initializers.zeros, shape, axes) for name in ("content_bias", "position_bias"))


def relative_positions(config: TransformerConfig, distance: jax.Array) -> jax.Array:
  """R for each distance, [..., D], with the configuration's clamping, in the compute dtype."""
  if config.clamp_length is not None:
    distance = jnp.clip(distance, -config.clamp_length, config.clamp_length)
  return sinusoid(distance, config.embed_dim).astype(config.compute_dtype)
