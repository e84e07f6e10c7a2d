"""What a shape annotation is of: `Float[Array, "B L D"]`, in the alphabet of TransformerConfig. The tests check them."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def in_chunks(chunk: int, *arrays: jax.Array) -> list[jax.Array]:
  """[B, L, ...] -> [ceil(L / chunk), B, chunk, ...], the end padded with zeros."""
  def split(x):
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

  return [split(x) for x in arrays]
