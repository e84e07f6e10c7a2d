"""Gradients of an objective's weighted means over a batch: in one go, or by microbatches."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.models.language_model import Batch, Params
from gpt4x.models.memory import map_memories, split_rows
from gpt4x.models.sums import Sums, weighted_mean

# (params, batch, memory, rng) -> the sums and the memory L positions on.
Loss = Callable[[Params, Batch, Any, jax.Array], tuple[Sums, Any]]
# (loss, coefficients, params, batch, memory, rng) -> gradients, the sums and the memory L positions on. Another way to
# take gradients (per row, clipped and noised, for privacy) is another function of this type.
Gradients = Callable[[Loss, Mapping[str, float], Params, Batch, Any, jax.Array], tuple[Params, Sums, Any]]


def whole(loss: Loss, coefficients: Mapping[str, float], params: Params, batch: Batch, memory: Any,
          rng: jax.Array) -> tuple[Params, Sums, Any]:
  """The gradient of the weighted means, the sums behind them, and the memory L positions on."""
  def objective(params):
    sums, new_memory = loss(params, batch, memory, rng)
    return weighted_mean(sums, coefficients), (sums, new_memory)

  gradients, (sums, memory) = jax.grad(objective, has_aux=True)(params)
  return gradients, sums, memory


def microbatched(parts: int) -> Gradients:
  """`whole` in less memory: rows are cut into `parts` groups, and the gradients of the groups are summed.

  The numbers are those of `whole` to rounding, except dropout's: each sum is divided by its weight in the whole batch.
  A mean that the model itself takes, as routers do, becomes the mean of the groups' means.
  """
  if parts == 1:
    return whole

  def gradients(loss, coefficients, params, batch, memory, rng):
    microbatches = ({name: split_rows(rows, 0, parts) for name, rows in batch.items()},
                    map_memories(lambda one: one.split(parts), memory), jax.random.split(rng, parts))
    # Weights depend on the batch alone, so the compiler removes the rest of this call.
    sums, _ = loss(params, batch, memory, rng)
    weights = {name: one.weight for name, one in sums.items()}
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, sums))

    def accumulate(total, microbatch):
      def objective(params):
        sums, memory = loss(params, *microbatch)
        terms = (factor * sums[name].value / jnp.maximum(weights[name], 1.0) for name, factor in coefficients.items())
        return sum(terms), (sums, memory)

      gradients, (sums, memory) = jax.grad(objective, has_aux=True)(params)
      return jax.tree.map(jnp.add, total, (gradients, sums)), memory

    (summed, sums), memory = jax.lax.scan(accumulate, zeros, microbatches)
    return summed, sums, map_memories(lambda one: one.join(), memory)

  return gradients
