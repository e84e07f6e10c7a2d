"""Kernels of small integers with scales, which lie where layers expect arrays (see models/parameters.py)."""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x import partitioning
from gpt4x.models.integer_products import rows_by_columns
from gpt4x.models.parameters import contract, Substitute
from gpt4x.models.rounding import rounded

GROUP = 32  # Neighbours along the last axis that is summed over, which have one scale, where integers have four bits.
_LOWEST, _LEVELS = -8, 16


@flax.struct.dataclass
class Int8(Substitute):
  """values [-127, 127] in the kernel's shape, times a scale for each output.

  With `activations` a product rounds each row of x to such integers too, and multiplies integers.
  """

  values: jax.Array  # int8
  scales: jax.Array  # float32, of size 1 along the axes that are summed over.
  activations: bool = flax.struct.field(pytree_node=False, default=False)

  def dense(self, dtype):
    return (self.values * self.scales).astype(dtype)

  def product(self, x, summed):
    if any(self.scales.shape[axis] > 1 for axis in summed):  # In the other direction, inputs have scales.
      return super().product(x, summed)
    scales = jnp.squeeze(self.scales, summed)
    if not self.activations:
      return (contract(x, self.values.astype(x.dtype), summed) * scales).astype(x.dtype)
    if summed == (self.values.ndim - 1,):
      return TurnedInt8(self.values.reshape(-1, x.shape[-1]), scales, True).product(x, summed)
    axes = tuple(range(x.ndim - len(summed), x.ndim))
    rows = rounded(x, axes)
    steps = rows.steps.reshape(*x.shape[:axes[0]], *[1] * scales.ndim)
    return (integer_product(rows.values, self.values, summed) * steps * scales).astype(x.dtype)

  def for_steps(self, summed):
    if jax.default_backend() != "cpu" or partitioning.is_planning() or jax.sharding.get_abstract_mesh().size > 1:
      return self
    kept = [axis for axis in range(self.values.ndim) if axis not in summed]
    rows = math.prod(self.values.shape[axis] for axis in kept)
    return TurnedInt8(jnp.transpose(self.values, (*kept, *summed)).reshape(rows, -1),
                      jnp.squeeze(self.scales, summed), self.activations)


@flax.struct.dataclass
class TurnedInt8(Substitute):
  """An Int8 as decoding steps use it on CPUs, where what an output is the sum of should lie together.

  Without `activations`, x is multiplied with all its bits.
  """

  values: jax.Array  # int8 [O, I]
  scales: jax.Array  # float32, in the shape of the outputs.
  activations: bool = flax.struct.field(pytree_node=False)

  def product(self, x, summed):
    rows = x.shape[:x.ndim - len(summed)]
    flat = x.reshape(math.prod(rows), -1)
    y = rows_by_columns(self.values, self.scales.reshape(-1), flat, bits=8 if self.activations else 23)
    return y.reshape(*rows, *self.scales.shape).astype(x.dtype)


@flax.struct.dataclass
class Int4(Substitute):
  """Integers from -8 to 7, two a byte, times a scale for each output and group of neighbours that are summed.

  A group's first half lies in the lower halves of its bytes, its second half in the upper ones.
  """

  values: jax.Array  # uint8, half the kernel's size along the last axis that is summed over.
  scales: jax.Array  # float16, one for each group along that axis.
  inputs: jax.Array | None  # float16, what x is to be multiplied by first; size 1 along the axes of outputs.
  axis: int = flax.struct.field(pytree_node=False)  # The last that is summed over, counted from the end.

  def dense(self, dtype):
    low, high = (self.values & 15).astype(jnp.int8) + _LOWEST, (self.values >> 4).astype(jnp.int8) + _LOWEST
    axis, groups = self.values.ndim + self.axis, self.scales.shape[self.axis]
    split = lambda x: x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1:])
    whole = jnp.concatenate([split(low), split(high)], axis + 1) * jnp.expand_dims(
        self.scales.astype(jnp.float32), axis + 1)
    whole = whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2:])
    return (whole if self.inputs is None else whole * self.inputs).astype(dtype)


def integer_product(x: jax.Array, values: jax.Array, summed: tuple[int, ...]) -> jax.Array:
  """int8 [..., *I] by int8 values: float32 [..., *O], exact up to 2^24."""
  rows = x.shape[:x.ndim - len(summed)]
  flat = x.reshape(-1, *x.shape[len(rows):])
  y = contract(_two_or_more(flat), values, summed, jnp.int32)[:len(flat)]
  return y.reshape(*rows, *(size for axis, size in enumerate(values.shape) if axis not in summed)).astype(jnp.float32)


def _two_or_more(rows: jax.Array) -> jax.Array:
  """XLA's CPU backend has a fast product of integers for two rows and more: a single one gets a second, of zeros."""
  return jnp.concatenate([rows, jnp.zeros_like(rows)]) if len(rows) == 1 else rows


def to_int8(kernel: jax.Array, summed: tuple[int, ...], activations: bool = False) -> Int8:
  """The nearest integers; the largest magnitude of each output is 127."""
  scales = int8_scales(kernel, summed)
  return Int8(jnp.round(kernel / scales).astype(jnp.int8), scales, activations)


def int8_scales(kernel: jax.Array, summed: tuple[int, ...]) -> jax.Array:
  return jnp.maximum(jnp.max(jnp.abs(kernel), summed, keepdims=True), 1e-30).astype(jnp.float32) / 127


def group_of(size: int) -> int:
  """Neighbours that have one scale, of so many; 0 where none can: an odd size has no halves."""
  group = math.gcd(size, GROUP)
  return group if group % 2 == 0 else 0


def int4_scales(kernel: jax.Array, axis: int, group: int) -> jax.Array:
  """A scale for each group along an axis, of either sign: the number of the largest magnitude becomes -8, exactly."""
  shape = kernel.shape
  split = kernel.reshape(*shape[:axis], shape[axis] // group, group, *shape[axis + 1:])
  most = jnp.take_along_axis(split, jnp.argmax(jnp.abs(split), axis + 1, keepdims=True), axis + 1)
  scales = (jnp.squeeze(most, axis + 1) / _LOWEST).astype(jnp.float16)
  tiny = jnp.finfo(jnp.float16).smallest_subnormal
  return jnp.where(jnp.abs(scales) < tiny, tiny, scales)


def to_int4(kernel: jax.Array, axis: int, inputs: jax.Array | None = None) -> Int4:
  """The nearest integers of groups along an axis, with scales as `int4_scales` has them."""
  scales = int4_scales(kernel, axis, group_of(kernel.shape[axis]))
  each = jnp.repeat(scales.astype(jnp.float32), kernel.shape[axis] // scales.shape[axis], axis)
  return packed(jnp.clip(jnp.round(kernel / each), _LOWEST, _LOWEST + _LEVELS - 1), axis, scales, inputs)


def packed(levels: jax.Array, axis: int, scales: jax.Array, inputs: jax.Array | None = None) -> Int4:
  """An Int4 of levels from -8 to 7 in the kernel's shape."""
  groups, shape = scales.shape[axis], levels.shape
  split = (levels - _LOWEST).astype(jnp.uint8).reshape(*shape[:axis], groups, 2, -1, *shape[axis + 1:])
  low, high = (jax.lax.index_in_dim(split, half, axis + 1, keepdims=False) for half in (0, 1))
  values = (low | high << 4).reshape(*shape[:axis], -1, *shape[axis + 1:])
  return Int4(values, scales, inputs, axis - len(shape))


def num_bytes(tree) -> int:
  """What the leaves of a tree take, in memory and on disk."""
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
