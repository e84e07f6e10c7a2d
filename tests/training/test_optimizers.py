"""Updates against NumPy formulas, what decays and what Muon takes, schedules at their key steps."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.training import optimizers

N, D, H, K, F, V, E = 3, 8, 2, 4, 16, 12, 5
SHAPES = {  # The leaves of a model with scanned layers, and whether weight decay falls on them.
    "embedding": {"table": ((V, D), True)},
    "decoder": {
        "content_bias": ((H, K), False),
        "layers": {
            "attention": {"query": ((N, D, H, K), True), "out": ((N, H, K, D), True),
                          "relative_key": ((N, D, H, K), True), "position_bias": ((N, H, K), False)},
            "attention_norm": {"scale": ((N, D), False), "bias": ((N, D), False)},
            "mlp": {"wi": ((N, D, F), True), "wo": ((N, F, D), True), "wi_bias": ((N, F), False),
                    "wi_gate_bias": ((N, F), False)},
            "moe": {"wi": ((N, E, D, F), True), "wo": ((N, E, F, D), True), "router": ((N, D, E), True),
                    "router_bias": ((N, E), False)},
        },
    },
    "output": {"kernel_1": ((V, D), True), "projection_1": ((D, D), True), "bias": ((V,), False),
               "bias_1": ((2, 3), False), "cluster_bias": ((2,), False)},
}
is_entry = lambda x: isinstance(x, tuple)


LAYERS = SHAPES["decoder"]["layers"]
SOME = {"table": SHAPES["embedding"]["table"], "query": LAYERS["attention"]["query"],
        "wi_bias": LAYERS["mlp"]["wi_bias"]}


def random_tree(seed, shapes=SOME):
  values = np.random.default_rng(seed)
  return jax.tree.map(lambda entry: jnp.asarray(values.normal(size=entry[0]), jnp.float32), shapes, is_leaf=is_entry)


def updates_of(optimizer, params, *gradients):
  """The updates of one step after another, with the parameters left where they are."""
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    yield updates


def test_decay_mask():
  expected = jax.tree.map(lambda entry: entry[1], SHAPES, is_leaf=is_entry)
  assert optimizers.is_decayed(random_tree(0, SHAPES)) == expected
  assert optimizers.is_decayed({"gate": jnp.ones(3)}) == {"gate": False}


def test_adamw_against_numpy():
  params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
  b1, b2, eps, decay = 0.8, 0.9, 1e-6, 0.3
  rate = lambda step: 0.1 * (step + 1)
  actual = updates_of(optimizers.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay), params, *gradients)
  mask = optimizers.is_decayed(params)
  m = v = jax.tree.map(lambda x: np.zeros(x.shape), params)
  for step, (updates, gradient) in enumerate(zip(actual, gradients)):
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * np.asarray(g, np.float64), m, gradient)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * np.asarray(g, np.float64)**2, v, gradient)
    expected = jax.tree.map(
        lambda m, v, p, decayed: -rate(step) * (
            m / (1 - b1**(step + 1)) / (np.sqrt(v / (1 - b2**(step + 1))) + eps) + decayed * decay * np.asarray(p)),
        m, v, params, mask)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6), updates, expected)


def test_lion_against_numpy():
  params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
  b1, b2, decay, rate = 0.7, 0.95, 0.3, 0.01
  actual = updates_of(optimizers.lion(rate, b1=b1, b2=b2, weight_decay=decay), params, *gradients)
  m = jax.tree.map(lambda x: np.zeros(x.shape), params)
  for updates, gradient in zip(actual, gradients):
    expected = jax.tree.map(
        lambda m, g, p, decayed: -rate * (np.sign(b1 * m + (1 - b1) * np.asarray(g)) + decayed * decay * np.asarray(p)),
        m, gradient, params, optimizers.is_decayed(params))
    m = jax.tree.map(lambda m, g: b2 * m + (1 - b2) * np.asarray(g), m, gradient)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6), updates, expected)


def test_adafactor_against_numpy():
  values = np.random.default_rng(0)
  param, gradient = values.normal(size=(128, 160)), values.normal(size=(128, 160))
  rate, decay = 0.01, 0.3
  (updates,) = updates_of(
      optimizers.adafactor(rate, weight_decay=decay), {"wi": jnp.asarray(param)}, {"wi": jnp.asarray(gradient)})
  squares = gradient**2
  rows, columns = squares.mean(axis=1, keepdims=True), squares.mean(axis=0, keepdims=True)
  direction = gradient / np.sqrt(rows * columns / squares.mean())
  direction /= max(1.0, np.sqrt(np.mean(direction**2)))
  expected = -rate * (direction * np.sqrt(np.mean(param**2)) + decay * param)
  np.testing.assert_allclose(updates["wi"], expected, rtol=1e-3, atol=1e-6)


def test_muon_makes_each_layers_and_experts_matrix_orthogonal():
  shapes = SOME | {"out": LAYERS["attention"]["out"], "wo": LAYERS["mlp"]["wo"], "wi": LAYERS["moe"]["wi"],
                   "router": LAYERS["moe"]["router"]}
  params, gradient = random_tree(0, shapes), random_tree(1, shapes)
  (updates,) = updates_of(optimizers.muon(1.0, weight_decay=0.0), params, gradient)
  for name, inputs in (("query", D), ("out", H * K), ("wo", F), ("wi", D)):
    matrices, gradients = (
        np.asarray(tree[name]).reshape(N * E if name == "wi" else N, inputs, -1) for tree in (updates, gradient))
    for matrix, of in zip(matrices / (0.2 * np.sqrt(max(matrices.shape[1:]))), gradients):
      values = np.linalg.svd(matrix, compute_uv=False)
      assert 0.5 < values.min() and values.max() < 1.4  # As near to 1 as five Newton-Schulz steps come.
      left, _, right = np.linalg.svd(of, full_matrices=False)
      assert np.sum(matrix * -(left @ right)) > 0.8 * min(matrix.shape)
  (by_adamw,) = updates_of(optimizers.adamw(1.0, weight_decay=0.0), params, gradient)
  for name in ("table", "wi_bias", "router"):
    np.testing.assert_allclose(updates[name], by_adamw[name], rtol=1e-6)


_each_optimizer = pytest.mark.parametrize("optimizer", [
    optimizers.adamw(0.02), optimizers.adafactor(0.02), optimizers.adafactor(0.02, b1=0.9), optimizers.lion(0.005),
    optimizers.sgd(0.01), optimizers.muon(0.02)],
    ids=["adamw", "adafactor", "adafactor_momentum", "lion", "sgd", "muon"])


@_each_optimizer
def test_leaves_the_routers_biases_where_they_are(optimizer):
  """They have no gradient; the train step moves them."""
  params, gradient = random_tree(0, LAYERS["moe"]), random_tree(1, LAYERS["moe"])
  gradient["router_bias"] *= 0
  for updates in updates_of(optimizers.with_clipping(optimizer, 1.0), params, gradient, gradient):
    np.testing.assert_array_equal(updates["router_bias"], 0)
    assert (updates["router"] != 0).all()


@_each_optimizer
def test_lowers_a_quadratic(optimizer):
  params, target = random_tree(0), random_tree(1)
  loss = lambda params: 0.5 * sum(jnp.sum((a - b)**2) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(target)))
  optimizer = optimizers.with_clipping(optimizer, 100.0)

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None
    return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[0][0]

  assert loss(run(params)) < 0.6 * loss(params)


def test_clipping():
  gradient = {"wi": jnp.asarray([[3.0, 4.0]])}
  for max_norm, norm in ((1.0, 1.0), (10.0, 5.0), (None, 5.0)):
    (updates,) = updates_of(optimizers.with_clipping(optax.sgd(1.0), max_norm), gradient, gradient)
    np.testing.assert_allclose(np.linalg.norm(updates["wi"]), norm, rtol=1e-6)


@pytest.mark.parametrize("schedule, values", [
    (optimizers.constant(0.5), {0: 0.5, 1000: 0.5}),
    (optimizers.warmup_cosine(2.0, 10, 110, 0.1), {0: 0.2, 4: 1.0, 9: 2.0, 10: 2.0, 60: 1.1, 110: 0.2, 500: 0.2}),
    (optimizers.warmup_linear(2.0, 10, 110), {0: 0.2, 9: 2.0, 10: 2.0, 60: 1.0, 109: 0.02, 110: 0.0, 500: 0.0}),
    (optimizers.warmup_stable_decay(2.0, 10, 20, 110), {0: 0.2, 9: 2.0, 50: 2.0, 90: 2.0, 100: 1.0, 110: 0.0}),
    (optimizers.inverse_square_root(2.0, 4), {0: 0.5, 3: 2.0, 15: 1.0, 63: 0.5}),
    (optimizers.warmup_cosine(2.0, 0, 100, 0.0), {0: 2.0, 50: 1.0, 100: 0.0}),
    (optimizers.inverse_square_root(2.0, 0), {0: 2.0, 3: 1.0}),
])
def test_schedules(schedule, values):
  actual = jax.jit(jax.vmap(schedule))(jnp.asarray(list(values), jnp.int32))
  np.testing.assert_allclose(actual, list(values.values()), rtol=1e-5, atol=1e-6)


def test_gin():
  with gin.unlock_config():
    gin.parse_config("""
        adamw.learning_rate = @warmup_linear()
        warmup_linear.peak = 1.0
        warmup_linear.warmup_steps = 0
        warmup_linear.total_steps = 10
    """)
  try:
    params = {"scale": jnp.ones(3)}
    (updates,) = updates_of(optimizers.adamw(), params, params)
    np.testing.assert_allclose(updates["scale"], -1.0, rtol=1e-5)
  finally:
    gin.clear_config()
