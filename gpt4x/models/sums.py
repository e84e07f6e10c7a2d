"""Named sums: what a batch contributes to a mean, which is taken once, over the whole of it."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Sum:
  """A weighted sum and its weight, scalars or arrays; `+` joins batches."""

  value: jax.Array
  weight: jax.Array

  def __add__(self, other: "Sum") -> "Sum":
    return Sum(self.value + other.value, self.weight + other.weight)

  @property
  def mean(self) -> jax.Array:
    return self.value / self.weight.clip(1.0)


Sums = Mapping[str, Sum]


def weighted_mean(sums: Sums, coefficients: Mapping[str, float]) -> jax.Array:
  """What is minimised: the coefficients times the means of their names."""
  return sum((factor * sums[name].mean for name, factor in coefficients.items()), start=jnp.zeros(()))


def metrics(sums: Sums) -> dict[str, jax.Array]:
  """The mean of each sum, the largest where it has several; `NAME/part` are parts of NAME."""
  found: dict[str, jax.Array] = {}
  for path, one in sums.items():
    name, mean = path.partition("/")[0], one.mean.max()
    found[name] = jnp.maximum(found[name], mean) if name in found else mean
  return found
