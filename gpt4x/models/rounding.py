"""Rows of numbers as int8 integers, each row with a step of its own."""

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
  steps = jnp.maximum(jnp.max(jnp.abs(x), axes, keepdims=True), 1e-30) / 127
  return Rows(jnp.round(x / steps).astype(jnp.int8), steps)
