"""Attention in one fused kernel for TPUs (Pallas), with Transformer-XL's relative positions, forward and backward.

Scores exist for one block of queries and keys at a time, in the chip's fast memory: the softmax goes over the blocks of
a query's keys with a running maximum and sum (arXiv:2205.14135), and the backward pass makes the scores again from
their saved logarithm. The position term of a block is a product of its queries with the relative keys of the distances
that it meets, a row of which is then rotated by its query's place (`_skew`); its gradients go the way back.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

MASKED = -1e30  # Not -inf: a row in which all is masked (padding) must stay finite.
VMEM = 64 * 2**20  # The bytes of fast memory that a core of every TPU from v5 on has, at least.


def relative_attention(query: jax.Array, position_query: jax.Array | None, keys: jax.Array, values: jax.Array,
                       position_keys: jax.Array | None, query_segments: jax.Array, key_segments: jax.Array,
                       window: int | None = None, block: int = 512, band: int = 128) -> jax.Array:
  """Mixes the values of the keys that each query sees: of its segment, not later, closer than `window`.

  The result is [B, H, L, K]. A query that sees no key, not even itself, gets something finite and no meaning.

  Args:
    query: [B, H, L, K], the last L of T positions; u has been added.
    position_query: [B, H, L, K], what meets the relative keys; v has been added. None: no position term.
    keys, values: [B, G, T, K]; head h takes those of h // (H / G).
    position_keys: [G, S, K], row s for the distance T - 1 - s, S >= T; None with position_query.
    query_segments: [B, L] int32.
    key_segments: [B, T] int32.
    window: distances from which on nothing is seen.
    block: at most so many queries and keys at a time.
    band: queries of a block whose scores are made together. TPUs want both to be multiples of 128.
  """
  length, total = query.shape[2], keys.shape[2]
  block = math.gcd(length + -length % band, block)
  # Padding goes behind the queries, and before the keys, where it is of a segment of its own.
  after = -length % block
  before = -(total + after) % block
  pad = lambda x, axis, low, high, value=0: x if x is None else jnp.pad(
      x, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)], constant_values=value)
  sizes = _Sizes(block, min(band, block), (length + after) // block, (before + total + after) // block, window,
                 query.shape[3]**-0.5)
  if position_keys is not None:
    # Distances ahead of the diagonal's last query are negative, and all masked.
    position_keys = pad(position_keys[:, :total], 1, before + after, block)
  mixed = _attention(
      sizes, pad(query, 2, 0, after), pad(position_query, 2, 0, after), pad(keys, 2, before, after),
      pad(values, 2, before, after), position_keys, pad(query_segments, 1, 0, after, -2)[:, None],
      pad(pad(key_segments, 1, before, 0, -1), 1, 0, after, -2)[:, None])
  return mixed[:, :, :length]


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """n = `block` queries (and keys) of a block, m = `band` of a band, and how many blocks there are.

  Step t of a block of queries meets the key block that is `key_steps` - 1 - t before the one on its diagonal, so that a
  step means the same distances for all of them.
  """

  block: int
  band: int
  query_blocks: int
  key_blocks: int
  window: int | None
  scale: float

  @property
  def key_steps(self) -> int:
    blocks = self.key_blocks
    return blocks if self.window is None else min(blocks, (self.window + self.block - 2) // self.block + 1)

  def key_block(self, query_block: Any, step: Any) -> Any:
    """Negative: there is none."""
    return query_block + step + self.key_blocks - self.query_blocks - self.key_steps + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(sizes, query, position_query, keys, values, position_keys, query_segments, key_segments):
  return _forward(sizes, query, position_query, keys, values, position_keys, query_segments, key_segments)[0]


def _dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
  return jax.lax.dot_general(x, y, (((x_axis,), (y_axis,)), ((), ())), preferred_element_type=jnp.float32)


def _across(x: jax.Array, columns: int) -> jax.Array:
  """More or fewer of the columns of x [m, lanes], which are all alike."""
  return jnp.concatenate([x] * -(-columns // x.shape[1]), 1)[:, :columns]


def _skew(by_distance: jax.Array, keys: int) -> jax.Array:
  """[m, m + n] scores by distance -> [m, n] by key: row r begins at column m - 1 - r."""
  return pltpu.roll(by_distance, keys + 1, 1, stride=1, stride_axis=0)[:, :keys]


def _unskew(by_key: jax.Array) -> jax.Array:
  """[m, n], its rows last to first -> [m, n + m]: row i moves to column i. So rotations only ever go forward."""
  rows = by_key.shape[0]
  wide = jnp.concatenate([by_key, jnp.zeros((rows, rows), by_key.dtype)], 1)
  return pltpu.roll(wide, 0, 1, stride=1, stride_axis=0)


def _flip(x: jax.Array) -> jax.Array:
  """Rows of x [m, ...] float32 last to first, eight of them, which make a register, at a time."""
  order = 7 - jax.lax.broadcasted_iota(jnp.int32, (8, x.shape[1]), 0)
  return jnp.concatenate([jnp.take_along_axis(x[i:i + 8], order, 0) for i in reversed(range(0, len(x), 8))], 0)


class _Band:
  """A band of a block's queries at a step: where it lies, and its scores."""

  def __init__(self, sizes: _Sizes, index: int, step: jax.Array):
    n, m = sizes.block, sizes.band
    self.sizes, self.step = sizes, step
    self.rows = pl.ds(index * m, m)
    # The relative keys of the distances that it meets begin here.
    first = pl.multiple_of((sizes.key_blocks - sizes.key_steps + step) * n, n)
    self.distances = pl.ds(first + n - (index + 1) * m, n + m)

  def scores(self, query, position_query, keys, position_keys, query_segments, key_segments) -> jax.Array:
    """[m, n] of references to a whole block (or, position_keys, to all)."""
    sizes, n = self.sizes, self.sizes.block
    scores = _dot(query[self.rows], keys[...], 1, 1)
    if position_keys is not None:
      scores += _skew(_dot(position_query[self.rows], position_keys[self.distances], 1, 1), n)
    iota = functools.partial(jax.lax.broadcasted_iota, jnp.int32, scores.shape)
    distance = (sizes.key_steps - 1 - self.step) * n + self.rows.start + iota(0) - iota(1)
    allowed = (distance >= 0) & (_across(query_segments[self.rows], n) == key_segments[...])
    if sizes.window is not None:
      allowed &= distance < sizes.window
    return jnp.where(allowed, scores * sizes.scale, MASKED)


def _one_ahead(make: Callable[[_Band], Any], sizes: _Sizes, step: jax.Array) -> Iterator[tuple[_Band, Any]]:
  """Each band with what is made of it, the next one's made first: one's products run beside the other's softmax."""
  bands = [_Band(sizes, index, step) for index in range(sizes.block // sizes.band)]
  made = make(bands[0])
  for band, following in zip(bands, [*bands[1:], None]):
    current, made = made, following and make(following)
    yield band, current


def _forward(sizes, query, position_query, keys, values, position_keys, query_segments, key_segments):
  """Mixed values [B, H, L, K]; and all inputs, those and the logarithm of each softmax's sum [B, H, 1, L]."""
  n, (rows, heads, length, dim) = sizes.block, query.shape

  def kernel(query, position_query, keys, values, position_keys, query_segments, key_segments, mixed, norm,
             segments, maximum, total, sums):
    block, step = pl.program_id(3), pl.program_id(4)

    @pl.when(step == 0)
    def _():
      segments[...] = jnp.broadcast_to(query_segments[...].T, segments.shape)
      maximum[...] = jnp.full_like(maximum, MASKED)
      total[...] = jnp.zeros_like(total)
      sums[...] = jnp.zeros_like(sums)

    @pl.when(sizes.key_block(block, step) >= 0)
    def _():
      make = lambda band: band.scores(query, position_query, keys, position_keys, segments, key_segments)
      for band, scores in _one_ahead(make, sizes, step):
        at = band.rows
        new_maximum = jnp.maximum(maximum[at], jnp.max(scores, 1, keepdims=True))
        weights = jnp.exp(scores - _across(new_maximum, n))
        keep = jnp.exp(maximum[at] - new_maximum)
        total[at] = keep * total[at] + sum(jnp.split(weights, n // maximum.shape[1], 1))
        sums[at] = _across(keep, dim) * sums[at] + _dot(weights.astype(values.dtype), values[...], 1, 0)
        maximum[at] = new_maximum

    @pl.when(step == sizes.key_steps - 1)
    def _():
      whole = jnp.sum(total[...], 1, keepdims=True)
      mixed[...] = (sums[...] / whole).astype(mixed.dtype)
      norm[...] = (maximum[:, :1] + jnp.log(whole)).T

  inputs = query, position_query, keys, values, position_keys, query_segments, key_segments
  queries, norms, in_specs = _specs(sizes, query, keys, position_keys)
  mixed, norm = _run(
      "relative_attention", kernel, sizes, inputs, in_specs,
      [(query, queries), (jax.ShapeDtypeStruct((rows, heads, 1, length), jnp.float32), norms)],
      [pltpu.VMEM((n, dim), jnp.float32)], parallel=4, by_key=2, by_distance=1)
  return mixed, (*inputs, mixed, norm)


def _backward(sizes, residuals, gradient):
  """The gradients of all inputs, those of the segments None.

  Those of keys, values and relative keys are summed in fast memory, over all that one key head meets, in float32.
  """
  query, position_query, keys, values, position_keys, *_ = inputs = *residuals, gradient
  n, (rows, heads, _, dim), (kv_heads, total) = sizes.block, query.shape, keys.shape[1:3]
  bands = [pl.ds(first, sizes.band) for first in range(0, n, sizes.band)]
  relative = position_keys is not None

  def kernel(query, position_query, keys, values, position_keys, query_segments, key_segments, mixed, norm, gradient,
             d_query, d_position_query, d_keys, d_values, d_position_keys,
             segments, norms, deltas, flipped, query_sum, position_sum, key_sum, value_sum):
    turn, block, step = (pl.program_id(axis) for axis in (2, 3, 4))
    key_block = sizes.key_block(block, step)

    @pl.when((turn == 0) & (block == 0) & (step == 0))
    def _():
      for sums in (key_sum, value_sum) + ((d_position_keys,) if relative else ()):
        sums[...] = jnp.zeros_like(sums)

    @pl.when(step == 0)
    def _():
      product = gradient[...].astype(jnp.float32) * mixed[...].astype(jnp.float32)
      for wide, column in ((segments, query_segments[...].T), (norms, norm[...].T),
                           (deltas, jnp.sum(product, 1, keepdims=True))):
        wide[...] = jnp.broadcast_to(column, wide.shape)
      query_sum[...] = jnp.zeros_like(query_sum)
      if relative:
        position_sum[...] = jnp.zeros_like(position_sum)
        for at in bands:
          flipped[at] = _flip(position_query[at].astype(jnp.float32)).astype(flipped.dtype)

    @pl.when(key_block >= 0)
    def _():
      at_keys = pl.ds(pl.multiple_of(key_block * n, n), n)
      make = lambda band: (band.scores(query, position_query, keys, position_keys, segments, key_segments),
                           _dot(gradient[band.rows], values[...], 1, 1))
      for band, (scores, d_weights) in _one_ahead(make, sizes, step):
        at = band.rows
        weights = jnp.exp(scores - _across(norms[at], n))
        value_sum[at_keys] += _dot(weights.astype(gradient.dtype), gradient[at], 0, 0)
        d_scores = weights * (d_weights - _across(deltas[at], n)) * sizes.scale
        rounded = d_scores.astype(query.dtype)
        query_sum[at] += _dot(rounded, keys[...], 1, 0)
        key_sum[at_keys] += _dot(rounded, query[at], 0, 0)
        if relative:
          by_distance = _unskew(_flip(d_scores)).astype(query.dtype)
          position_sum[at] += _dot(by_distance, position_keys[band.distances], 1, 0)
          d_position_keys[band.distances] += _dot(by_distance, flipped[at], 0, 0)

    @pl.when(step == sizes.key_steps - 1)
    def _():
      d_query[...] = query_sum[...].astype(d_query.dtype)
      if relative:
        for at in bands:
          d_position_query[at] = _flip(position_sum[at]).astype(d_position_query.dtype)

    @pl.when((turn == heads // kv_heads - 1) & (block == sizes.query_blocks - 1) & (step == sizes.key_steps - 1))
    def _():
      d_keys[...] = key_sum[...].astype(d_keys.dtype)
      d_values[...] = value_sum[...].astype(d_values.dtype)

  summed = lambda x: (x, pl.BlockSpec((None, None, *x.shape[2:]), lambda b, g, r, a, t: (b, g, 0, 0)))
  queries, norms, in_specs = _specs(sizes, query, keys, position_keys)
  outputs = [(query, queries), (None, None), summed(keys), summed(values), (None, None)]
  if relative:
    outputs[1] = position_query, queries
    outputs[4] = summed(jax.ShapeDtypeStruct((rows, *position_keys.shape), jnp.float32))
  sums = lambda rows, dtype=jnp.float32: pltpu.VMEM((rows, dim), dtype)
  *gradients, d_position_keys = _run(
      "relative_attention_gradient", kernel, sizes, inputs, [*in_specs, queries, norms, queries], outputs,
      [sums(n, query.dtype), sums(n), sums(n), sums(total), sums(total)], parallel=2, by_key=5, by_distance=3)
  if relative:
    d_position_keys = jnp.sum(d_position_keys, 0).astype(position_keys.dtype)
  return *gradients, d_position_keys, None, None


_attention.defvjp(_forward, _backward)


def _specs(sizes, query, keys, position_keys) -> tuple[pl.BlockSpec, pl.BlockSpec, list[Any]]:
  """Blocks of what is like the queries, of the softmaxes' sums, and of `_attention`'s inputs.

  A grid goes over batch rows b, key heads g, the query heads r of each, blocks of queries a and steps t.
  """
  n, dim, group = sizes.block, query.shape[3], query.shape[1] // keys.shape[1]
  key_block = lambda a, t: jnp.maximum(sizes.key_block(a, t), 0)
  queries = pl.BlockSpec((None, None, n, dim), lambda b, g, r, a, t: (b, g * group + r, a, 0))
  norms = pl.BlockSpec((None, None, 1, n), lambda b, g, r, a, t: (b, g * group + r, 0, a))
  each_key = pl.BlockSpec((None, None, n, dim), lambda b, g, r, a, t: (b, g, key_block(a, t), 0))
  positions = distances = None
  if position_keys is not None:
    positions = queries
    distances = pl.BlockSpec((None, *position_keys.shape[1:]), lambda b, g, r, a, t: (g, 0, 0))
  return queries, norms, [
      queries, positions, each_key, each_key, distances, pl.BlockSpec((None, 1, n), lambda b, g, r, a, t: (b, 0, a)),
      pl.BlockSpec((None, 1, n), lambda b, g, r, a, t: (b, 0, key_block(a, t)))]


def _run(name, kernel, sizes, inputs, in_specs, outputs, scratch, parallel, by_key, by_distance):
  """Runs a kernel on TPUs, elsewhere what it computes, step by step; for what is compiled here may run there.

  Args:
    outputs: what each is like, and its block.
    scratch: memory besides three columns for each query, which has a number as often as a register is wide.
    parallel: axes of the grid, from the first, whose order does not matter.
    by_key, by_distance: products of a block of queries and so many keys or distances, which the compiler cannot count.
  """
  query, _, keys, _, position_keys, *_ = inputs
  (rows, heads, _, dim), n, kv_heads = query.shape, sizes.block, keys.shape[1]
  shapes = [None if x is None else jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs]
  blocks_before = sizes.key_blocks - sizes.query_blocks
  met = rows * heads * sum(min(sizes.key_steps, blocks_before + a + 1) for a in range(sizes.query_blocks))
  columns = by_key * n + (0 if position_keys is None else by_distance * (n + sizes.band))
  # All that is read or written counts once; keys and values are read for every block of queries.
  once = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*inputs, *shapes) if x is not None)
  call = functools.partial(
      pl.pallas_call, kernel, name=name, in_specs=in_specs, out_specs=[spec for _, spec in outputs], out_shape=shapes,
      grid=(rows, kv_heads, heads // kv_heads, sizes.query_blocks, sizes.key_steps),
      scratch_shapes=[*(pltpu.VMEM((n, math.gcd(n, 128)), kind) for kind in (jnp.int32, jnp.float32, jnp.float32)),
                      *scratch],
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=("parallel",) * parallel + ("arbitrary",) * (5 - parallel), vmem_limit_bytes=VMEM),
      cost_estimate=pl.CostEstimate(flops=met * 2 * n * dim * columns, transcendentals=met * n * n,
                                    bytes_accessed=once + met * 2 * n * dim * query.dtype.itemsize))
  return jax.lax.platform_dependent(*inputs, tpu=call(), default=call(interpret=True))
