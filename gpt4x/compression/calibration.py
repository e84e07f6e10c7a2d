"""What kernels multiply on given text: the second moments of their inputs.

No layer is asked for its inputs. A kernel gets a companion, whose "gradient" is what the moments are: their sum over
scanned steps, rows and devices is then that of any gradient.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import contract, Declaration, map_declared, Substitute


@flax.struct.dataclass
class _Probed(Substitute):
  array: jax.Array
  moments: jax.Array  # [*leading, I, I], zeros

  def dense(self, dtype):
    return self.array.astype(dtype)

  def product(self, x, summed):
    return _product(x, self.array.astype(x.dtype), self.moments, summed)

  def rows(self, ids):
    return _Probed(self.array[ids], self.moments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x, array, moments, summed):
  return contract(x, array, summed)


def _forward(x, array, moments, summed):
  return contract(x, array, summed), (x, array, moments)


def _backward(summed, kept, _):
  x, array, moments = kept
  rows = x.reshape(-1, math.prod(x.shape[x.ndim - len(summed):])).astype(jnp.float32)
  if len(moments) != rows.shape[1]:  # A kernel that is used in the other direction as well.
    return jnp.zeros_like(x), jnp.zeros_like(array), moments
  found = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
  return jnp.zeros_like(x), jnp.zeros_like(array), found


_product.defvjp(_forward, _backward)


def moments(model: LanguageModel, params: Any, batches: Iterable[Mapping[str, jax.Array]], memory_length: int) -> Any:
  """The sum of x x^T over all inputs x [I] of each kernel, [*leading, I, I] float64.

  It is zero for kernels that multiply nothing: tables that are only looked up, and mixtures' experts, whose inputs are
  sorted.

  Args:
    model: whose parameters are arrays.
    params: these.
    batches: of `decoder_*` features [B, L], in the order in which the memory is carried on.
    memory_length: of that; 0 for examples, which stand alone.
  """
  shapes, declarations = model.declared
  sizes = map_declared(lambda leaf, declaration: _shape(leaf.shape, declaration), shapes, declarations)
  is_shape = lambda x: isinstance(x, tuple)

  @jax.jit
  def sums(params, batch, memory):
    def total(probes):
      probed = jax.tree.map(
          lambda size, param, probe: _Probed(param, probe) if size else param, sizes, params, probes, is_leaf=is_shape)
      output = model.forward(probed, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                             batch.get("decoder_causal_attention"))
      return jnp.sum(model.unembed(probed, output.hidden)), output.memory

    zeros = jax.tree.map(lambda size: jnp.zeros(size or (), jnp.float32), sizes, is_leaf=is_shape)
    return jax.grad(total, has_aux=True)(zeros)

  found, memory = None, None
  for batch in batches:
    if memory is None:
      memory = model.initial_memory(len(batch["decoder_input_tokens"]), memory_length)
    new, memory = sums(params, dict(batch), memory)
    new = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), new)
    found = new if found is None else jax.tree.map(np.add, found, new)
  return found


def _shape(shape: tuple[int, ...], declaration: Declaration) -> tuple[int, ...]:
  """[*leading, I, I] of a kernel; () for what is none."""
  if not declaration.is_kernel:
    return ()
  size = math.prod(shape[axis] for axis in declaration.summed_axes)
  return *(shape[axis] for axis in declaration.leading_axes), size, size


def matrices(array: Any, declaration: Declaration) -> np.ndarray:
  """A kernel as matrices [n, I, O]."""
  array, first = np.asarray(array), declaration.leading_axes
  outputs = [axis for axis in range(array.ndim) if axis not in (*first, *declaration.summed_axes)]
  moved = np.transpose(array, (*first, *declaration.summed_axes, *outputs))
  count, inputs = (math.prod(array.shape[axis] for axis in axes) for axes in (first, declaration.summed_axes))
  return moved.reshape(count, inputs, -1)


def from_matrices(found: np.ndarray, shape: Sequence[int], declaration: Declaration) -> np.ndarray:
  """The inverse of `matrices`, for a kernel of this shape."""
  first = declaration.leading_axes
  outputs = [axis for axis in range(len(shape)) if axis not in (*first, *declaration.summed_axes)]
  order = (*first, *declaration.summed_axes, *outputs)
  return np.transpose(found.reshape([shape[axis] for axis in order]), np.argsort(order))
