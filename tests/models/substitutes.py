"""Toy kernels that lie in a parameter's place, one of each kind to come: quantized, adapted, masked."""

import flax.struct
import jax
import jax.numpy as jnp

from gpt4x.models.parameters import Declaration, Substitute


@flax.struct.dataclass
class Quantized(Substitute):
  """Integers, and a scale for each output."""

  values: jax.Array
  scales: jax.Array

  def dense(self, dtype):
    return self.values.astype(dtype) * self.scales.astype(dtype)


@flax.struct.dataclass
class LowRank(Substitute):
  """A kernel, itself perhaps a Substitute, with what an adapter adds to it."""

  base: jax.Array
  change: jax.Array

  def dense(self, dtype):
    base = self.base.dense(dtype) if isinstance(self.base, Substitute) else self.base.astype(dtype)
    return base + self.change.astype(dtype)


@flax.struct.dataclass
class Masked(Substitute):
  kernel: jax.Array
  mask: jax.Array

  def dense(self, dtype):
    return (self.kernel * self.mask).astype(dtype)


def quantize(kernel, declaration):
  scales = jnp.max(jnp.abs(kernel), declaration.summed_axes, keepdims=True) / 127
  return Quantized(jnp.round(kernel / scales).astype(jnp.int8), scales)


def adapt(kernel, declaration):
  return LowRank(quantize(kernel, declaration), 0.01 * kernel)


def mask(kernel, declaration):
  return Masked(kernel, (jnp.abs(kernel) > 0.2).astype(jnp.int8))


def replace(make, params, declarations):
  """(params with every kernel replaced, the arrays that they stand for)."""
  one = lambda declaration, leaf: make(leaf, declaration) if declaration.is_kernel else leaf
  is_declaration = lambda x: isinstance(x, Declaration)
  replaced = jax.tree.map(one, declarations, params, is_leaf=is_declaration)
  dense = jax.tree.map(lambda declaration, leaf: leaf.dense(jnp.float32) if declaration.is_kernel else leaf,
                       declarations, replaced, is_leaf=is_declaration)
  return replaced, dense
