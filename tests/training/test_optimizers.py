"""Updates against NumPy formulas, what decays and what Muon takes, schedules at their key steps."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import Declaration
from gpt4x.training import optimizers

N, D, H, K, F, V, E = 3, 8, 2, 4, 16, 12, 5
SHAPES = {  # Leaves of a model with scanned layers: their shapes, their axes, and those that a product sums over.
    "embedding": {"table": ((V, D), ("vocab", "embed"), ("embed",))},
    "decoder": {
        "content_bias": ((H, K), ("heads", "kv"), ()),
        "layers": {
            "attention": {"query": ((N, D, H, K), ("layers", "embed", "heads", "kv"), ("embed",)),
                          "out": ((N, H, K, D), ("layers", "heads", "kv", "embed"), ("heads", "kv")),
                          "position_bias": ((N, H, K), ("layers", "heads", "kv"), ())},
            "attention_norm": {"scale": ((N, D), ("layers", "embed"), ())},
            "mlp": {"wi": ((N, D, F), ("layers", "embed", "mlp"), ("embed",)),
                    "wo": ((N, F, D), ("layers", "mlp", "embed"), ("mlp",)),
                    "wi_bias": ((N, F), ("layers", "mlp"), ())},
            "moe": {"wi": ((N, E, D, F), ("layers", "expert", "embed", "mlp"), ("embed",)),
                    "wo": ((N, E, F, D), ("layers", "expert", "mlp", "embed"), ("mlp",)),
                    "router": ((N, D, E), ("layers", "embed", None), ("embed",)),
                    "router_bias": ((N, E), ("layers", None), ())},
        },
    },
}
is_entry = lambda x: isinstance(x, tuple)


LAYERS = SHAPES["decoder"]["layers"]
SOME = {"table": SHAPES["embedding"]["table"], "query": LAYERS["attention"]["query"],
        "wi_bias": LAYERS["mlp"]["wi_bias"]}


def random_tree(seed, shapes=SOME):
  values = np.random.default_rng(seed)
  return jax.tree.map(lambda entry: jnp.asarray(values.normal(size=entry[0]), jnp.float32), shapes, is_leaf=is_entry)


def declared(shapes=SOME):
  return jax.tree.map(lambda entry: Declaration(*entry[1:]), shapes, is_leaf=is_entry)


def updates_of(optimizer, params, *gradients, shapes=SOME, clip_norm=None):
  """The updates of one step after another, with the parameters left where they are."""
  optimizer = optimizers.complete(optimizer, declared(shapes), clip_norm)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    yield updates


DECAYED = {"table": True, "query": True, "wi_bias": False}


def test_a_models_kernels_decay_and_its_hidden_matrices_are_muons():
  """By what each parameter declares: not norms, biases and routers' biases; not the vocabulary's, nor routers."""
  model = LanguageModel(TransformerConfig(
      vocab_size=16, num_layers=2, embed_dim=8, num_heads=2, adaptive_cutoffs=(4,), adaptive_divisor=2,
      output_bias=True, activation="swiglu", moe=MoEConfig(num_experts=4, bias_rate=0.1, num_shared_experts=1)))
  params, declarations = model.declared
  names = lambda kind: {"/".join(entry.key for entry in path[-2:]) for path, chosen in
                        jax.tree_util.tree_leaves_with_path(kind(params)) if chosen}
  decayed = names(optimizers.decayed(declarations))
  hidden = names(optimizers.by_declaration(lambda one: one.is_hidden, declarations))
  attention = {f"attention/{name}" for name in ("query", "key", "value", "relative_key", "out")}
  experts = {f"{name}/{kernel}" for name in ("moe", "shared") for kernel in ("wi", "wi_gate", "wo")}
  assert hidden == attention | experts
  assert decayed == hidden | {"moe/router"} | {f"vocabulary/{name}" for name in (
      "table_0", "table_1", "projection_0", "projection_1", "output_projection_0", "output_projection_1",
      "cluster_kernel")}


def test_adamw_against_numpy():
  params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
  b1, b2, eps, decay = 0.8, 0.9, 1e-6, 0.3
  rate = lambda step: 0.1 * (step + 1)
  actual = updates_of(optimizers.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay), params, *gradients)
  mask = DECAYED
  m = v = jax.tree.map(lambda x: np.zeros(x.shape), params)
  for step, (updates, gradient) in enumerate(zip(actual, gradients)):
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * np.asarray(g, np.float64), m, gradient)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * np.asarray(g, np.float64)**2, v, gradient)
    expected = jax.tree.map(
        lambda m, v, p, decayed: -rate(step) * (
            m / (1 - b1**(step + 1)) / (np.sqrt(v / (1 - b2**(step + 1))) + eps) + decayed * decay * np.asarray(p)),
        m, v, params, mask)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6), updates, expected)


def test_adamws_first_moment_has_the_dtype_that_is_asked_for():
  params = random_tree(0)
  moments = lambda **options: optax.tree.get(
      optimizers.complete(optimizers.adamw(0.1, **options), declared()).init(params), "mu")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(moments())} == {"float32"}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(moments(first_moment_dtype="bfloat16"))} == {"bfloat16"}


def test_lion_against_numpy():
  params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
  b1, b2, decay, rate = 0.7, 0.95, 0.3, 0.01
  actual = updates_of(optimizers.lion(rate, b1=b1, b2=b2, weight_decay=decay), params, *gradients)
  m = jax.tree.map(lambda x: np.zeros(x.shape), params)
  for updates, gradient in zip(actual, gradients):
    expected = jax.tree.map(
        lambda m, g, p, decayed: -rate * (np.sign(b1 * m + (1 - b1) * np.asarray(g)) + decayed * decay * np.asarray(p)),
        m, gradient, params, DECAYED)
    m = jax.tree.map(lambda m, g: b2 * m + (1 - b2) * np.asarray(g), m, gradient)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6), updates, expected)


def test_adafactor_against_numpy():
  values = np.random.default_rng(0)
  param, gradient = values.normal(size=(128, 160)), values.normal(size=(128, 160))
  rate, decay = 0.01, 0.3
  (updates,) = updates_of(
      optimizers.adafactor(rate, weight_decay=decay), {"wi": jnp.asarray(param)}, {"wi": jnp.asarray(gradient)},
      shapes={"wi": (None, ("embed", "mlp"), ("embed",))})
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
  (updates,) = updates_of(optimizers.muon(1.0, weight_decay=0.0), params, gradient, shapes=shapes)
  for name, inputs in (("query", D), ("out", H * K), ("wo", F), ("wi", D)):
    matrices, gradients = (
        np.asarray(tree[name]).reshape(N * E if name == "wi" else N, inputs, -1) for tree in (updates, gradient))
    for matrix, of in zip(matrices / (0.2 * np.sqrt(max(matrices.shape[1:]))), gradients):
      values = np.linalg.svd(matrix, compute_uv=False)
      assert 0.5 < values.min() and values.max() < 1.4  # As near to 1 as five Newton-Schulz steps come.
      left, _, right = np.linalg.svd(of, full_matrices=False)
      assert np.sum(matrix * -(left @ right)) > 0.8 * min(matrix.shape)
  (by_adamw,) = updates_of(optimizers.adamw(1.0, weight_decay=0.0), params, gradient, shapes=shapes)
  for name in ("table", "wi_bias", "router"):
    np.testing.assert_allclose(updates[name], by_adamw[name], rtol=1e-6)


def test_clipping():
  gradient = {"wi": jnp.asarray([[3.0, 4.0]])}
  for max_norm, norm in ((1.0, 1.0), (10.0, 5.0), (None, 5.0)):
    (updates,) = updates_of(optax.sgd(1.0), gradient, gradient, clip_norm=max_norm)
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
    (updates,) = updates_of(optimizers.adamw(), params, params, shapes={"scale": ((3,), ("embed",), ())})
    np.testing.assert_allclose(updates["scale"], -1.0, rtol=1e-5)
  finally:
    gin.clear_config()
