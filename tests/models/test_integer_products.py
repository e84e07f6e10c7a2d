"""Products of few rows by int8, in float64: by C++ where this machine can compile it, and by XLA."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models import integer_products, rounding

RNG = np.random.default_rng(0)
SHAPES = [((), 1, 40, 16), ((), 3, 5, 33), ((2,), 1, 40, 64), ((3, 2), 4, 7, 65), ((), 2, 3, 3000), ((), 20, 6, 16)]


@pytest.fixture(name="native", params=["native", "xla"])
def _native(request, monkeypatch):
  """Whether there is C++."""
  if request.param == "xla":
    monkeypatch.setattr(integer_products, "_registered", lambda: False)
  elif not integer_products.use_native():
    pytest.skip("no C++ compiler")
  return request.param == "native"


def arrays(lead, rows, columns, size):
  x, values = RNG.normal(size=(*lead, rows, size)) * 1e-3, RNG.integers(-127, 128, (*lead, columns, size), np.int8)
  return jnp.asarray(x, jnp.float32), jnp.asarray(values)


def within(found, x, matrix, bits):
  """Whether a product has errors as of rows of so many bits."""
  x, matrix = np.asarray(x, np.float64), np.asarray(matrix, np.float64)
  assert found.dtype == jnp.float32
  bound = np.abs(x).max(-1, keepdims=True) * 2.0**-bits * np.abs(matrix).sum(-2, keepdims=True) + 1e-9
  return np.all(np.abs(found - x @ matrix) <= bound)


@pytest.mark.parametrize("bits", [8, 15, 23])
@pytest.mark.parametrize("lead, rows, columns, size", SHAPES)
def test_rows_have_so_many_bits(native, lead, rows, columns, size, bits):
  x, values = arrays(lead, rows, columns, size)
  x, scales = x.at[..., 0, :].set(0), jnp.asarray(RNG.uniform(0.1, 2, (*lead, columns)), jnp.float32)
  found = jax.jit(integer_products.rows_by_columns, static_argnums=3)(values, scales, x, bits)
  matrix = np.swapaxes(np.asarray(values, np.float64) * np.asarray(scales)[..., None], -1, -2)
  assert within(found, x, matrix, min(bits, 22)) and not np.any(found[..., 0, :])
  if bits == 8:  # Integers are multiplied exactly.
    steps = np.abs(np.asarray(x)).max(-1, keepdims=True).clip(1e-30) / np.float32(127)
    expected = np.round(np.asarray(x) / steps).astype(int) @ np.swapaxes(np.asarray(values, int), -1, -2)
    np.testing.assert_allclose(found, expected * np.float64(steps) * np.asarray(scales)[..., None, :], rtol=1e-6)


@pytest.mark.parametrize("lead, rows, size, columns", SHAPES)
def test_rows_are_mixed(native, lead, rows, size, columns):
  x, values = arrays(lead, rows, columns, size)
  values, scales = jnp.swapaxes(values, -1, -2), jnp.asarray(RNG.uniform(0.1, 2, (*lead, size)), jnp.float32)
  found = jax.jit(integer_products.rows_by_rows)(values, scales, x)
  assert within(found, np.asarray(x) * np.asarray(scales)[..., None, :], values, 15)


def test_the_largest_integers_do_not_overflow(native):
  """Sums of as many as an int32 holds, and of more, which are no sums of integers where rows are mixed."""
  for size in (515, 516, 517, rounding.LONGEST, rounding.LONGEST + 1):
    x, values, one = jnp.ones((1, size)), jnp.full((size, 1), 127, jnp.int8), jnp.ones(1)
    if size <= rounding.LONGEST:
      for bits in (8, 15, 23):
        found = integer_products.rows_by_columns(values.T, one, x, bits)
        np.testing.assert_allclose(found, [[127 * size]], rtol=1e-4)
    np.testing.assert_allclose(integer_products.rows_by_rows(values, jnp.ones(size), x), [[127 * size]], rtol=1e-4)


def test_programs_of_several_devices_have_none_of_it(monkeypatch):
  monkeypatch.setattr(integer_products, "_registered", lambda: True)
  assert integer_products.use_native()
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
    assert not integer_products.use_native()


@pytest.mark.parametrize("compiler, told", [("false", "WARNING"), ("/nowhere/c++", "WARNING"), (None, "INFO")])
def test_a_machine_without_a_working_compiler_is_told(monkeypatch, caplog, compiler, told, tmp_path):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  monkeypatch.setenv("PATH", str(tmp_path) if compiler is None else "/usr/bin:/bin")
  monkeypatch.delenv("CXX", raising=False)
  if compiler:
    monkeypatch.setenv("CXX", compiler)
  with caplog.at_level(logging.INFO):
    assert not integer_products._registered.__wrapped__()
  (record,) = caplog.records
  assert record.levelname == told and "half as fast" in record.getMessage() and "\n" not in record.getMessage()


def test_a_library_is_made_once(native, monkeypatch, tmp_path):
  """And again for another source or processor."""
  if not native:
    return
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  made = integer_products._compiled(integer_products._compiler())
  time = made.stat().st_mtime_ns
  assert integer_products._compiled(integer_products._compiler()) == made and made.stat().st_mtime_ns == time
  assert [path.name for path in made.parent.iterdir()] == [made.name]
  monkeypatch.setattr(integer_products, "_processor", lambda: "another")
  assert integer_products._compiled(integer_products._compiler()) != made
