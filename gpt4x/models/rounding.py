"""Rows of numbers as int8 integers, each row with a step of its own."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Rows:
  """values [..., R, K] from -127 to 127, times a step for each row."""

  values: jax.Array  # int8
  steps: jax.Array  # float32 [..., R, 1]

  def dense(self, dtype: Any) -> jax.Array:
    return (self.values * self.steps).astype(dtype)


def rounded(x: jax.Array, axes: tuple[int, ...] = (-1,)) -> Rows:
  """The nearest integers to x, whose rows lie along `axes`; the largest magnitude of each is 127."""
  x = x.astype(jnp.float32)
  steps = row_steps(x, axes)
  return Rows(jnp.round(x / steps).astype(jnp.int8), steps)


def row_steps(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  return jnp.maximum(jnp.max(jnp.abs(x), axes, keepdims=True), 1e-30) / 127


def fine_product(product: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """A product that is linear in the rows of x [..., R, C], computed of integers: float32 [..., R, O].

  Each row becomes two, the second of what the first leaves over in steps 1/254 as large. XLA's CPU backend has a fast
  product of integers for two rows and more, so that a single one comes to 15 bits for nothing.

  Args:
    product: of int8 [..., 2 R, C] to int32 [..., 2 R, O]; C may be `LONGEST` at most.
    x: what is rounded.
  """
  x = x.astype(jnp.float32)
  steps = row_steps(x, (-1,))
  x = x / steps
  coarse = jnp.round(x)
  rows = jnp.concatenate([coarse, jnp.round((x - coarse) * 254)], -2).astype(jnp.int8)
  coarse, fine = jnp.split(product(rows).astype(jnp.float32), 2, -2)
  return (coarse + fine * (1 / 254)) * steps


LONGEST = 2**31 // 127**2  # Products of int8 that an int32 holds the sum of.
