"""Shape annotations, `Float[Array, "B L D"]`, use the alphabet of TransformerConfig; the tests check them."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:  # What is computed is JAX's; what is given may be NumPy's.
  Array = jax.Array
else:
  Array = jax.Array | np.ndarray


def in_chunks(chunk: int, *arrays: jax.Array) -> list[jax.Array]:
  """[B, L, ...] -> [ceil(L / chunk), B, chunk, ...], the end padded with zeros."""
  def split(x):
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

  return [split(x) for x in arrays]
