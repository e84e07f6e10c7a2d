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


def fine_product(product: Callable[[jax.Array], jax.Array], x: jax.Array, parts: int = 2) -> jax.Array:
  """A product that is linear in the rows of x [..., R, C], computed of integers: float32 [..., R, O].

  Each row becomes several, of what the one before leaves over in steps 1/254 as large: two have 15 bits, three those of
  float32. XLA's CPU backend has a fast product of integers for two rows and more: this costs a single row little.

  Args:
    product: of int8 [..., parts R, C] to int32 [..., parts R, O]; C may be `LONGEST` at most.
    x: what is rounded.
    parts: rows for each of x.
  """
  x = x.astype(jnp.float32)
  steps = row_steps(x, (-1,))
  x, rows = x / steps, []
  for _ in range(parts):
    rows.append(jnp.round(x))
    x = (x - rows[-1]) * 254
  found = product(jnp.concatenate(rows, -2).astype(jnp.int8)).astype(jnp.float32)
  return sum(part * 254.0**-i for i, part in enumerate(jnp.split(found, parts, -2))) * steps


LONGEST = 2**31 // 127**2  # Products of int8 that an int32 holds the sum of.
