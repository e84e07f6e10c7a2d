"""Codes and values are a bijection for even and odd levels, every bin is used, and what is saturated comes back."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.media import fsq

LEVELS = [(2,), (3,), (8, 5, 5, 5), (5, 4, 3), (7, 2)]


def numbers_for(values):
  """z whose u is given."""
  return jax.scipy.special.erfinv(jnp.asarray(values)) * math.sqrt(2)


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_values_are_one_to_one(levels):
  codes = jnp.arange(math.prod(levels))
  values = fsq.values(codes, levels)
  assert len({tuple(row) for row in np.asarray(values).tolist()}) == len(codes)
  again, found = fsq.quantize(numbers_for(values), levels)
  np.testing.assert_array_equal(found, codes)
  np.testing.assert_allclose(again, values, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_values_are_the_middles_of_equal_bins_between_minus_one_and_one(levels):
  found = {tuple(row) for row in np.asarray(fsq.values(jnp.arange(math.prod(levels)), levels)).round(5).tolist()}
  expected = itertools.product(*(np.round(-1 + (2 * np.arange(size) + 1) / size, 5).tolist() for size in levels))
  assert found == {tuple(float(np.float32(x).round(5)) for x in row) for row in expected}


@pytest.mark.parametrize("levels", [(8, 5), (4, 3), (2, 9)])
def test_normal_numbers_use_all_bins_alike(levels):
  _, codes = fsq.quantize(jax.random.normal(jax.random.key(0), (20_000, len(levels))), levels)
  counts = np.bincount(np.asarray(codes), minlength=math.prod(levels))
  used, bits = fsq.usage(counts)
  assert used == 1 and bits == pytest.approx(math.log2(math.prod(levels)), abs=0.01)
  assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize("z", [0.0, 0.3, -1.0, 4.0, -30.0, 1e4])
def test_the_gradient_passes_straight_through_and_lives_where_z_is_saturated(z):
  value = lambda z: jnp.sum(fsq.quantize(z[None, None], (5,))[0])
  slope = float(jax.grad(value)(jnp.float32(z)))
  assert slope == pytest.approx(math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + 0.05, abs=1e-4)


def test_far_out_is_the_outermost_bin():
  values, codes = fsq.quantize(jnp.array([[-jnp.inf], [-50.0], [50.0], [jnp.inf]]), (6,))
  assert codes.tolist() == [0, 0, 5, 5]
  np.testing.assert_allclose(values[1:3, 0], [-5 / 6, 5 / 6], atol=1e-5)


def test_usage_counts_codebooks_apart():
  used, bits = fsq.usage(np.array([[4, 4, 0, 0], [2, 2, 2, 2]]))
  assert used == 0.75 and bits == 1.5
