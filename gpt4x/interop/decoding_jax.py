"""JAX's words for what `decoding_graph` computes: a module that is given to it as its `ops`. Sizes are known."""

from collections.abc import Sequence
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.interop.decoding_weights import Quantized

concatenate, expand_dims, matmul, maximum, minimum = (
    jnp.concatenate, jnp.expand_dims, jnp.matmul, jnp.maximum, jnp.minimum)
cos, sin, sigmoid, where = jnp.cos, jnp.sin, jax.nn.sigmoid, jnp.where
gelu, softmax, log_softmax, transpose = jax.nn.gelu, jax.nn.softmax, jax.nn.log_softmax, jnp.transpose


def product(x: jax.Array, kernel: Any, transposed: bool = False) -> jax.Array:
  """x [..., I] by a kernel [I, O], or [O, I] if it is transposed; or one of several, along axes in front."""
  if not isinstance(kernel, Quantized):
    return jnp.matmul(x, kernel.T if transposed else kernel)
  values, scales = (part.T if transposed else part for part in (kernel.values, kernel.scales))
  if scales.shape[-2] > 1:  # Of a kernel that sums the other way, as a tied projection: inputs have scales.
    x, scales = x * scales[..., 0], 1.0
  row_scales = jnp.maximum(jnp.max(jnp.abs(x), -1, keepdims=True), 1e-30) * (1 / 127)
  rows = jnp.round(x / row_scales).astype(jnp.int8)
  integers = jnp.matmul(rows, values, preferred_element_type=jnp.int32)
  return integers.astype(jnp.float32) * row_scales * scales


def lookup(table: Any, ids: jax.Array) -> jax.Array:
  if isinstance(table, Quantized):
    return take(table.values, ids, 0).astype(jnp.float32) * take(table.scales, ids, 0)
  return take(table, ids, 0)


def norm(x: jax.Array, scale: Any, bias: Any, epsilon: float) -> jax.Array:
  if bias is not None:
    x = x - jnp.mean(x, -1, keepdims=True)
  x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon) * scale
  return x if bias is None else x + bias


def take(x: Any, indices: jax.Array, axis: int) -> jax.Array:
  return jnp.take(x, indices, axis, mode="clip")


def last(x: jax.Array) -> jax.Array:
  """Of [B, L, D] the last of L, [B, D]."""
  return x[:, -1]


def rows(x: Any, start: int, stop: int) -> Any:
  return x.map(lambda part: part[start:stop]) if isinstance(x, Quantized) else x[start:stop]


def cut(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """The first `size` of the last axis, and the others."""
  return x[..., :size], x[..., size:]


def split(x: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
  """Of the last axis."""
  return [x[..., end - size:end] for size, end in zip(sizes, itertools.accumulate(sizes))]


def reshape(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """0 is an axis that stays as it is."""
  return jnp.reshape(x, [size or x.shape[i] for i, size in enumerate(shape)])


def argmax(x: jax.Array) -> jax.Array:
  return jnp.argmax(x, -1).astype(jnp.int32)


def sum(x: jax.Array) -> jax.Array:  # pylint: disable=redefined-builtin
  """Over the last axis, which stays."""
  return jnp.sum(x, -1, keepdims=True)


def float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)


def arange(tokens: jax.Array) -> jax.Array:
  """0, 1, ..., L - 1 for tokens [B, L]."""
  return jnp.arange(tokens.shape[1], dtype=jnp.int32)
