"""Kernels of integers: what they multiply to, in float64, and what they take."""

import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.compression import integers
from gpt4x.models import parameters
from gpt4x.models.parameters import Kernel

RNG = np.random.default_rng(0)
# (shape, axes that are summed over), as attention, the MLP and the output have them.
KERNELS = [((64, 6, 8), (0,)), ((4, 16, 12), (0, 1)), ((96, 24), (0,)), ((50, 32), (1,)), ((30, 14), (1,))]


def arrays(shape, summed, rows=(2, 3)):
  kernel = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  return kernel, jnp.asarray(RNG.normal(size=(*rows, *(shape[axis] for axis in summed))), jnp.float32)


def exact(x, kernel, summed):
  x = np.asarray(x, np.float64)
  return np.tensordot(x, np.asarray(kernel, np.float64), (range(x.ndim - len(summed), x.ndim), summed))


@pytest.mark.parametrize("shape, summed", KERNELS)
def test_int8_is_near_and_multiplies_exactly(shape, summed):
  kernel, x = arrays(shape, summed)
  found = integers.to_int8(kernel, summed)
  scales = np.abs(np.asarray(kernel)).max(summed, keepdims=True) / 127
  assert found.values.dtype == jnp.int8 and np.abs(np.asarray(found.values)).max() == 127
  assert np.all(np.abs(found.dense(jnp.float32) - kernel) <= scales * 0.501)
  dense = np.asarray(found.values, np.float64) * np.asarray(found.scales, np.float64)
  np.testing.assert_allclose(found.dense(jnp.float32), dense, rtol=1e-6)
  product = parameters.product(x, Kernel(found, summed, jnp.float32))
  np.testing.assert_allclose(product, exact(x, dense, summed), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rows", [(1,), (2,), (2, 3)])
@pytest.mark.parametrize("shape, summed", KERNELS)
def test_a_product_of_integers_is_that_of_float64(shape, summed, rows):
  """Rows rounded to 127 steps of their own, integers multiplied: also one row, which gets company."""
  kernel, x = arrays(shape, summed, rows)
  found = integers.to_int8(kernel, summed, activations=True)
  features = tuple(range(len(rows), x.ndim))
  steps = np.abs(np.asarray(x, np.float64)).max(features, keepdims=True) / 127
  rounded = np.round(np.asarray(x) / np.asarray(steps, np.float32))
  expected = exact(rounded, found.values, summed)
  expected *= steps.reshape(*rows, *[1] * (expected.ndim - len(rows))) * np.squeeze(np.asarray(found.scales), summed)
  kernel = Kernel(found, summed, jnp.float32)
  assert isinstance(kernel.for_steps().value, integers.TurnedInt8)
  for one in (kernel, kernel.for_steps()):
    product = parameters.product(x, one)
    assert product.shape == expected.shape
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [(1,), (2, 3)])
@pytest.mark.parametrize("shape, summed", KERNELS)
def test_a_turned_kernel_multiplies_all_the_bits_of_x(shape, summed, rows):
  kernel, x = arrays(shape, summed, rows)
  found = integers.to_int8(kernel, summed)
  dense = np.asarray(found.values, np.float64) * np.asarray(found.scales, np.float64)
  product = parameters.product(x, Kernel(found, summed, jnp.float32).for_steps())
  np.testing.assert_allclose(product, exact(x, dense, summed), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape, summed", KERNELS)
def test_int4_is_near_and_takes_half_a_byte(shape, summed):
  kernel, x = arrays(shape, summed)
  axis, group = summed[-1], integers.group_of(shape[summed[-1]])
  found = integers.to_int4(kernel, axis)
  assert found.values.dtype == jnp.uint8 and found.values.size == kernel.size // 2
  assert found.scales.size == kernel.size // group and found.scales.dtype == jnp.float16
  dense = np.asarray(found.dense(jnp.float32))
  each = np.repeat(np.abs(np.asarray(found.scales, np.float32)), group, axis)
  # The level 8 that the scale's sign leaves out may be a whole step away.
  errors = np.abs(dense - np.asarray(kernel)) / each
  assert np.all(errors <= 1.01) and np.mean(errors > 0.51) < 0.05
  product = parameters.product(x, Kernel(found, summed, jnp.float32))
  np.testing.assert_allclose(product, exact(x, dense, summed), rtol=2e-5, atol=2e-5)


def test_levels_survive_packing_and_the_largest_is_exact():
  levels = jnp.asarray(RNG.integers(-8, 8, (2, 64, 3)), jnp.float32)
  scales = jnp.full((2, 2, 3), 0.5, jnp.float16)
  np.testing.assert_array_equal(integers.packed(levels, 1, scales).dense(jnp.float32), levels * 0.5)
  kernel = jnp.asarray(RNG.normal(size=(64, 5)), jnp.float32)
  found = integers.to_int4(kernel, 0).dense(jnp.float32)
  for start in (0, 32):
    place = jnp.argmax(jnp.abs(kernel[start:start + 32]), 0) + start
    np.testing.assert_allclose(found[place, jnp.arange(5)], kernel[place, jnp.arange(5)], rtol=1e-3)


def test_zeros_stay_zeros():
  zeros = jnp.zeros((32, 4))
  for found in (integers.to_int8(zeros, (0,)), integers.to_int4(zeros, 0), integers.to_int8(zeros, (0,), True)):
    assert not found.dense(jnp.float32).any()
    assert not parameters.product(zeros.T, Kernel(found, (0,), jnp.float32)).any()


def test_groups():
  assert [integers.group_of(size) for size in (64, 48, 20, 30, 7, 32, 2)] == [32, 16, 4, 2, 0, 32, 2]
