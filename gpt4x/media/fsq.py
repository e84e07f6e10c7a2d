"""Finite scalar quantization (arXiv:2309.15505): a few numbers, each rounded to one of its levels, are one code.

There is no table that could collapse. Encoders give about normal numbers, so each z is first made uniform,
u = erf(z / sqrt 2), and its bins are equally wide in u: all are used, the outermost too, whether levels are even or odd
(arXiv:2601.17124, with a sigmoid for the error function).
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

_LEAK = 0.05  # Added to the slope of u, which underflows where z is large: what is saturated can come back.


def quantize(z: jax.Array, levels: Sequence[int]) -> tuple[jax.Array, jax.Array]:
  """The values [..., d] in (-1, 1) of numbers z [..., d], whose gradient is that of u, and their codes [...]."""
  spread = jax.scipy.special.erf(z / math.sqrt(2))
  sizes = jnp.asarray(levels, jnp.float32)
  bins = jnp.clip(jnp.floor((spread + 1) / 2 * sizes), 0, sizes - 1).astype(jnp.int32)
  leak = _LEAK * z
  spread += leak - jax.lax.stop_gradient(leak)
  return spread + jax.lax.stop_gradient(_centers(bins, levels) - spread), _codes(bins, levels)


def values(codes: jax.Array, levels: Sequence[int]) -> jax.Array:
  """The values [..., d] of codes [...]: the middles of their bins."""
  return _centers(codes[..., None] // _strides(levels) % np.asarray(levels), levels)


def usage(counts: np.ndarray) -> tuple[float, float]:
  """The share of the codes that are used at all, and the entropy of a code in bits, given counts [..., codes]."""
  share = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
  bits = -np.sum(share * np.log2(np.where(share > 0, share, 1)), -1)
  return float(np.mean(counts > 0)), float(np.mean(bits))


def _centers(bins: jax.Array, levels: Sequence[int]) -> jax.Array:
  return (2 * bins + 1) / jnp.asarray(levels, jnp.float32) - 1


def _codes(bins: jax.Array, levels: Sequence[int]) -> jax.Array:
  return jnp.sum(bins * _strides(levels), -1)


def _strides(levels: Sequence[int]) -> np.ndarray:
  return np.cumprod([1, *levels[:-1]]).astype(np.int32)
