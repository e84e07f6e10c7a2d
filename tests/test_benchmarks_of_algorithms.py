"""The ways to train that are tried at equal seconds: what their updates are, and how a gain is judged."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import algorithms, candidates


def test_cautious_updates_go_down_the_gradient_alone():
  ahead = optax.GradientTransformation(lambda params: (), lambda gradients, state, params=None: (
      {"w": jnp.array([-1.0, -1.0, 2.0, -4.0])}, state))
  gradients = {"w": jnp.array([1.0, -1.0, -1.0, 3.0])}
  updates, _ = candidates._cautious(ahead).update(gradients, ())
  # Three of four agree, and count for as much as all four did.
  np.testing.assert_allclose(updates["w"], np.array([-1.0, 0.0, 2.0, -4.0]) * 4 / 3, rtol=1e-6)


def soap_of(gradients, b1=0.9, b2=0.8, period=2):
  """Directions by NumPy in float64, of gradients [n, I, O] in turn."""
  m, v = np.zeros(gradients[0].shape), np.zeros(gradients[0].shape)
  factors = [np.zeros((size, size)) for size in m.shape]
  bases = [np.eye(size) for size in m.shape]
  for count, g in enumerate(gradients, 1):
    factors = [b2 * factors[0] + (1 - b2) * g @ g.T, b2 * factors[1] + (1 - b2) * g.T @ g]
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (bases[0].T @ g @ bases[1])**2
    step = (bases[0].T @ m @ bases[1]) / (np.sqrt(v / (1 - b2**count)) + 1e-8) / (1 - b1**count)
    yield bases[0] @ step @ bases[1].T
    if count == 1 or count % period == 0:
      bases = [np.linalg.qr(factor @ base)[0] for factor, base in zip(factors, bases)]


def test_soap_is_adam_in_turned_coordinates():
  gradients = np.random.default_rng(0).normal(size=(5, 3, 4))
  way = candidates._soap(0.9, 0.8, 2, 1024)
  state = way.init({"w": jnp.zeros((3, 4))})
  update = jax.jit(way.update)
  for g, expected in zip(gradients, soap_of(gradients)):
    updates, old = {"w": jnp.asarray(g, jnp.float32)}, state
    found, state = update(updates, old)
    # Where a step's basis is that of before it, as in the paper's algorithm 3, signs of its vectors do not matter.
    np.testing.assert_allclose(found["w"], expected, rtol=2e-3, atol=2e-4)


def test_a_side_that_is_too_long_has_no_basis():
  way = candidates._soap(0.9, 0.8, 2, 3)
  state = way.init({"w": jnp.zeros((3, 4))})
  assert [base.shape for base in state.leaves["w"]["bases"]] == [(3, 3), (0, 0)]
  found, _ = way.update({"w": jnp.ones((3, 4))}, state)
  assert found["w"].shape == (3, 4) and np.isfinite(found["w"]).all()


def test_each_way_has_its_best_rate_and_as_many_seconds(monkeypatch):
  asked = []

  def trained(bench, gin_file, name, way, rate, steps, seed):
    asked.append((name, rate, steps, seed))
    return 2.0 + abs(rate - 0.03) + seed / 100, steps * 0.5

  monkeypatch.setattr(algorithms, "trained", trained)
  values = algorithms.tried(types.SimpleNamespace(seeds=3), "", "muon", algorithms.WAYS["muon"])
  assert values == [pytest.approx(2.0), pytest.approx(2.01), pytest.approx(2.02)]
  assert {steps for _, _, steps, _ in asked[2:]} == {200} and [seed for *_, seed in asked[-2:]] == [1, 2]


def test_a_gain_is_beyond_two_standard_errors(tmp_path):
  found = {name: [2.0, 2.01, 2.02] for name in algorithms.WAYS} | {"swiglu": [1.9, 1.91, 1.92], "lion": [3.0, 3.1, 3.2]}
  bench = types.SimpleNamespace(folder=tmp_path, each=lambda names, measure: [found[name] for name in names])
  rows = {row.name: row for row in algorithms.rows(bench)}
  assert rows["algorithms/swiglu"].met and rows["algorithms/swiglu"].peer == pytest.approx(2.01)
  assert not rows["algorithms/lion"].met and not rows["algorithms/qk_norm"].met
  assert "include 'experiments/stdlib_tiny.gin'" in (tmp_path / "tried.gin").read_text()
