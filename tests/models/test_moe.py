"""Mixtures of experts against the reference's loop over tokens, with and without room for all; balance; the stack."""

import functools
import math

from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models import moe
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.sums import metrics as metrics_of
from gpt4x.models.sums import weighted_mean
from gpt4x.objectives.next_token import NextToken
from tests.models import reference, tiny

ROWS, LENGTH, D = 3, 10, 6
KINDS = {
    "plain": dict(num_experts=5),
    "switch": dict(num_experts=4, experts_per_token=1, normalize_weights=False, mlp_dim=5),
    "fine": dict(num_experts=7, experts_per_token=3, scores="sigmoid", bias_rate=0.1, num_shared_experts=2, mlp_dim=4),
    "unnormalized": dict(num_experts=5, normalize_weights=False, router_z_loss=0.02),
}
kinds = pytest.mark.parametrize("kind", KINDS)
capacities = pytest.mark.parametrize("factor", [None, 0.5, 1.0, 99.0])


def make_layer(kind, factor=None, activation="swiglu", **changes):
  """A mixture, its parameters, and inputs of which some are padding."""
  config = TransformerConfig(vocab_size=8, num_layers=1, embed_dim=D, num_heads=2, mlp_dim=8, activation=activation,
                             moe=MoEConfig(**KINDS[kind], capacity_factor=factor, **changes), dtype="float32")
  layer, rng = moe.MoE(config), np.random.default_rng(0)
  x, real = rng.normal(size=(ROWS, LENGTH, D)).astype(np.float32), rng.random((ROWS, LENGTH)) < 0.8
  params = jax.eval_shape(functools.partial(layer.init, deterministic=True), jax.random.key(0), x, real)["params"]
  params = jax.tree.map(lambda leaf: (0.7 * rng.normal(size=leaf.shape)).astype(np.float32), params)
  capacity = factor and min(LENGTH, math.ceil(factor * config.moe.experts_per_token * LENGTH / config.moe.num_experts))
  return layer, params, x, real, capacity


def forward(layer, params, x, real, deterministic=False, seed=0):
  """The output and the Routing; as in training, unless deterministic."""
  output, collected = layer.apply(
      {"params": params}, x, real, deterministic, mutable=["router"], rngs={"dropout": jax.random.key(seed)})
  return output, collected["router"]["routing"]


run = tiny.jit(forward, static_argnums=(0, 4))


@kinds
@capacities
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_a_layer_is_the_loop_over_tokens(kind, factor, activation):
  layer, params, x, real, capacity = make_layer(kind, factor, activation)
  output, sums = run(layer, params, x, real)
  expected, expected_sums = reference.mixture(params, layer.config, x.astype(np.float64), real, capacity)
  np.testing.assert_allclose(output, expected, atol=1e-5)
  for name, value in expected_sums.items():
    np.testing.assert_allclose(getattr(sums, name), value, rtol=1e-5, err_msg=name)
  assert sums.load.sum() == real.sum() * layer.config.moe.experts_per_token
  assert (sums.dropped > 0) == (factor in (0.5, 1.0))


@kinds
@pytest.mark.parametrize("factor", [None, 0.5])
def test_gradients_are_those_of_the_loop(kind, factor):
  """Of a random combination of outputs and of both losses, against central differences in float64."""
  layer, params, x, real, capacity = make_layer(kind, factor)
  direction = np.random.default_rng(1).normal(size=x.shape)
  weigh = lambda balance_loss, z_loss: (
      layer.config.moe.balance_loss * balance_loss + layer.config.moe.router_z_loss * z_loss)

  def value(params, x):
    output, sums = forward(layer, params, x, real)
    return jnp.sum(output * direction * real[..., None]) + 100 * weigh(sums.balance_loss, sums.z_loss)

  def expected(params, x):
    output, sums = reference.mixture(params, layer.config, x, real, capacity)
    # The share of choices does not move with the router, so central differences see the same gradient.
    return np.sum(output * direction * real[..., None]) + 100 * weigh(sums["balance_loss"], sums["z_loss"])

  gradients = tiny.jit(jax.grad(value, (0, 1)))(params, x)
  leaves, tree = jax.tree_util.tree_flatten_with_path((params, x.astype(np.float64)))
  for i, ((path, leaf), gradient) in enumerate(zip(leaves, jax.tree.leaves(gradients))):
    name = jax.tree_util.keystr(path)
    norm = np.linalg.norm(gradient)
    if "router_bias" in name:
      assert norm == 0
      continue
    assert norm > 1e-3, name
    for along in (gradient, np.random.default_rng(i).normal(size=leaf.shape)):
      along = np.asarray(along, np.float64) / np.linalg.norm(along)
      moved = lambda step: expected(*tree.unflatten([
          other + step * along if j == i else other for j, (_, other) in enumerate(leaves)]))
      np.testing.assert_allclose(
          np.sum(gradient * along), (moved(1e-5) - moved(-1e-5)) / 2e-5, atol=2e-5 * norm, err_msg=name)


def test_first_choices_come_first_and_earlier_tokens_before_later_ones():
  """And rows are apart. Expert 3 of three is none: padding."""
  experts = jnp.array([[[1, 0], [1, 2], [0, 1], [1, 0], [3, 3], [0, 1]], [[2, 0]] * 6])
  sources, slots = moe.assign(experts, num_experts=3, capacity=3)
  assert sources.tolist() == [[2, 5, 0, 6, 7, 8], [0, 1, 3, 12, 12, 12], [1, 12, 12, 6, 7, 8]]
  assert slots.tolist() == [[[6, 2], [7, 12], [0, 18], [8, 18], [18, 18], [1, 18]],
                            [[15, 3], [16, 4], [17, 5], [18, 18], [18, 18], [18, 18]]]


def test_evaluation_drops_nothing_and_draws_nothing():
  layer, params, x, real, _ = make_layer("plain", 0.5, jitter=0.3)
  exact, _ = reference.mixture(params, layer.config, x.astype(np.float64), real)
  np.testing.assert_allclose(run(layer, params, x, real, True)[0], exact, atol=1e-5)


@pytest.mark.parametrize("activate", [lambda mesh: mesh, jax.set_mesh], ids=["with", "set_mesh"])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_rules_that_know_no_experts(activate, factor):
  """As upstream t5x drives the model: its mesh, its rules, and either way to make the mesh known."""
  layer, params, x, real, _ = make_layer("plain", factor)
  x, real = np.concatenate([x, x[:1]]), np.concatenate([real, real[:1]])  # Four rows.
  expected = run(layer, params, x, real)
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  with activate(mesh), nn_partitioning.axis_rules((("batch", "data"), ("mlp", "model"), ("embed", None))):
    actual = tiny.jit(functools.partial(forward, layer))(params, *jax.device_put((x, real), rows))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected)


def test_jitter_moves_the_router_alone():
  plain, params, x, real, _ = make_layer("plain")
  jittered = make_layer("plain", jitter=0.3)[0]
  outputs = [run(jittered, params, x, real, False, seed)[0] for seed in (0, 1)]
  assert np.abs(outputs[0] - outputs[1]).max() > 0.01
  indifferent = {**params, "router": np.zeros_like(params["router"])}  # All scores alike, jitter or not.
  np.testing.assert_array_equal(*(run(layer, indifferent, x, real)[0] for layer in (jittered, plain)))


def test_padding_is_seen_by_no_expert():
  layer, params, x, real, _ = make_layer("plain", 0.5)
  before, sums = run(layer, params, x, real)
  after, same = run(layer, params, np.where(real[..., None], x, 1e4), real)
  np.testing.assert_array_equal(before, after)
  np.testing.assert_array_equal(before[~real], 0)
  jax.tree.map(np.testing.assert_array_equal, sums, same)


def test_the_routers_biases_balance_the_load():
  """Steps of the bias alone, from a router that prefers two experts of eight, on the loss of a whole model."""
  model = tiny.make(vocab_size=64, norm_position="pre",
                    moe=MoEConfig(num_experts=8, bias_rate=0.01, balance_loss=0.0, capacity_factor=1.0))
  lm = model.lm
  mixture = {**model.params["layers"]["moe"], "router_bias": np.zeros((2, 8), np.float32)}
  mixture["router_bias"][:, :2] = 0.4
  params = {**model.params, "layers": {**model.params["layers"], "moe": mixture}}
  tokens = np.random.default_rng(0).integers(0, 64, (8, 33), dtype=np.int32)
  batch = dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:],
               decoder_segment_ids=np.ones((8, 32), np.int32), decoder_loss_weights=np.ones((8, 32), np.float32))

  @tiny.jit
  def train(params):
    def step(params, _):
      sums, _ = NextToken()(lm, params, {}, batch, lm.initial_memory(8, 0), jax.random.key(0))
      balance, = lm.after_update
      return balance(params, sums), metrics_of(sums)
    return jax.lax.scan(step, params, length=60)

  after, metrics = train(params)
  for name, start, end in (("expert_imbalance", 3.0, 1.5), ("expert_dropped", 0.5, 0.25)):
    assert metrics[name][0] > start and metrics[name][-1] < end, metrics[name]
  steps = (after["layers"]["moe"].pop("router_bias") - mixture.pop("router_bias")) / 0.01
  np.testing.assert_allclose(steps, steps.round(), atol=1e-3)  # Each a number of steps of the one size.
  jax.tree.map(np.testing.assert_array_equal, after, params)  # And nothing else has moved.


def test_metrics_over_layers():
  """Blocks of two layers, stacked: two mixtures of four layers."""
  model = tiny.make(**{**tiny.STYLES["mixture"], "moe": MoEConfig(num_experts=4, period=2, capacity_factor=0.5,
                                                                  router_z_loss=0.01)})
  tokens = tiny.random_tokens(model.config, 17)
  batch = dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:],
               decoder_segment_ids=tiny.random_documents(16), decoder_loss_weights=np.full(tokens[:, 1:].shape, 0.5))

  def run(params):
    memory, rng = model.lm.initial_memory(tiny.ROWS, 0), {"dropout": jax.random.key(0)}
    sums, _ = NextToken()(model.lm, params, {}, batch, memory, rng["dropout"])
    _, collected = model.lm.module.apply({"params": params}, tokens[:, :-1], memory, batch["decoder_segment_ids"],
                                         deterministic=False, rngs=rng, mutable=["router"])
    return sums, collected["router"]

  sums, routed = tiny.jit(run)(model.params)
  layer, metrics = routed["layers"]["layers_1"]["moe"]["routing"], metrics_of(sums)
  assert layer.load.shape == (2, 4) and list(routed["layers"]) == ["layers_1"]
  np.testing.assert_allclose(metrics["expert_dropped"], layer.dropped.sum() / layer.load.sum())
  np.testing.assert_allclose(metrics["expert_imbalance"], (layer.load.max(-1) / layer.load.mean(-1)).max(), rtol=1e-6)
  np.testing.assert_allclose(metrics["router_balance_loss"], layer.balance_loss.sum(), rtol=1e-6)
  np.testing.assert_allclose(metrics["router_z_loss"], layer.z_loss.sum(), rtol=1e-6)
  coefficients = NextToken().coefficients(model.lm)
  assert coefficients == {"loss": 1.0, "router_balance_loss": 0.01, "router_z_loss": 0.01}
  np.testing.assert_allclose(weighted_mean(sums, coefficients), metrics["loss"] + 0.01 * (
      metrics["router_balance_loss"] + metrics["router_z_loss"]), rtol=1e-6)


@pytest.mark.parametrize("scan_layers, period", [(True, 1), (False, 3)])
def test_any_period(scan_layers, period):
  """Every layer a mixture; and one of four, which blocks would not divide into."""
  model = tiny.make(num_layers=4, scan_layers=scan_layers, activation="gelu", memory_length=5,
                    moe=MoEConfig(num_experts=4, period=period, bias_rate=0.1, scores="sigmoid"))
  mixtures = [path for path, _ in jax.tree_util.tree_leaves_with_path(model.params) if path[-1].key == "router"]
  assert [path[0].key for path in mixtures] == (["layers"] if scan_layers else ["layers_2"])
  assert model.config.num_params() == sum(leaf.size for leaf in jax.tree.leaves(model.params))
  tokens, segment_ids = tiny.random_tokens(model.config, 2 * LENGTH), np.ones((tiny.ROWS, 2 * LENGTH), np.int32)
  memory, expected_memory = model.lm.initial_memory(tiny.ROWS), None
  for now in (np.s_[:, :LENGTH], np.s_[:, LENGTH:]):
    log_probs, memory = model.log_probs(model.params, tokens[now], memory, segment_ids[now])
    expected, expected_memory = reference.log_probs(
        model.params, model.config, tokens[now], segment_ids[now], expected_memory)
    np.testing.assert_allclose(log_probs, expected, atol=5e-5)


def test_a_fresh_layer_keeps_the_scale_of_its_input():
  """Each expert's kernels are drawn for its own D inputs and F hidden units, not for those of all experts."""
  config = TransformerConfig(vocab_size=8, num_layers=1, embed_dim=64, num_heads=2, mlp_dim=128,
                             moe=MoEConfig(num_experts=16), dtype="float32")
  x = jax.random.normal(jax.random.key(0), (2, 8, 64))
  init = tiny.jit(functools.partial(moe.MoE(config).init, deterministic=True))
  params = init(jax.random.key(1), x, jnp.ones((2, 8), bool))["params"]
  np.testing.assert_allclose(np.std(params["wi"]), 64**-0.5, rtol=0.02)
  np.testing.assert_allclose(np.std(params["wo"]), 128**-0.5, rtol=0.02)
