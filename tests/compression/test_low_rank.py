"""Adapters: what they add, in float64; nothing at first; merged or beside; on arrays and on integers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.compression import integers, low_rank
from gpt4x.compression.low_rank import LowRank
from gpt4x.compression.quantization import Quantization
from gpt4x.errors import UserError
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import Kernel, product
from gpt4x.models.saved_model import SavedModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.training.state import TrainState
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

ALL = {**STYLES, "unscanned": dict(scan_layers=False), "shared": dict(num_layers=4, share_layers=2)}


def adapted(made, form=None, **options):
  """A model of adapters of a tiny one."""
  base = SavedModel("LowRank.base", "nowhere", LanguageModel(made.config, form))
  return LanguageModel(made.config, LowRank("nowhere", saved=base, **{"rank": 2, "alpha": 3.0, **options}))


def filled(model, seed=1):
  """Adapters of which none is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), model.declared[0])


def logits(model, params):
  tokens = tiny.random_tokens(model.config, LENGTH)
  return jax.jit(lambda params: model.logits(params, tokens, model.initial_memory(ROWS))[0])(params)


@pytest.mark.parametrize("shape, summed", [((6, 2, 4), (0,)), ((2, 4, 6), (0, 1)), ((5, 7), (0,))])
def test_a_product_adds_that_of_the_factors(shape, summed):
  rng, count = np.random.default_rng(0), len(summed)
  kernel, x = rng.normal(size=shape), rng.normal(size=(3, *shape[:count]))
  low, high = rng.normal(size=(*shape[:count], 2)), rng.normal(size=(2, *shape[count:]))
  whole = kernel + 0.5 * np.tensordot(low, high, 1)
  float32 = lambda x: jnp.asarray(x, jnp.float32)
  one = low_rank.Adapted(float32(kernel), float32(low), float32(high), 0.5)
  expected = np.tensordot(x, whole, (range(1, 1 + count), range(count)))
  np.testing.assert_allclose(product(float32(x), Kernel(one, summed, jnp.float32)), expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(one.dense(jnp.float32), whole, rtol=1e-5, atol=1e-6)
  small = integers.to_int8(float32(kernel), summed)
  expected = np.tensordot(x, small.dense(jnp.float32) + 0.5 * np.tensordot(low, high, 1),
                          (range(1, 1 + count), range(count)))
  one = dataclasses.replace(one, kernel=small)
  np.testing.assert_allclose(product(float32(x), Kernel(one, summed, jnp.float32)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("style", ALL)
def test_fresh_adapters_add_nothing_and_merged_ones_are_unmerged_ones(style):
  made = tiny.make(**{**ALL[style], "memory_length": 4})
  model = adapted(made)
  fresh = model.init(jax.random.key(0))
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(lambda leaf: leaf.shape, model.declared[0])
  plain = logits(made.lm, made.params)
  whole = model.whole(fresh, {"base": made.params})
  np.testing.assert_allclose(logits(model, whole), plain, atol=3e-6)  # XLA fuses two programs differently.
  jax.tree.map(np.testing.assert_array_equal, low_rank.merged(whole), made.params)
  whole = model.whole(filled(model), {"base": made.params})
  unmerged = logits(model, whole)
  assert np.abs(unmerged - plain).max() > 0.1
  merged = low_rank.merged(whole)
  assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, made.params)
  np.testing.assert_allclose(logits(model.whole_model, merged), unmerged, atol=1e-4)


def test_experts_embeddings_and_routers_have_none():
  names = {jax.tree_util.keystr(path, simple=True, separator="/")
           for path, _ in jax.tree_util.tree_leaves_with_path(adapted(tiny.make(**STYLES["mixture"])).declared[0])}
  assert names and all("/attention/" in name or "/mlp/" in name or "shared" in name for name in names), names
  only = adapted(tiny.make(), kernels=".*/(query|value)").declared[0]
  assert jax.tree.leaves(only, is_leaf=lambda x: "low" in x)[0].keys() == {"low", "high"}
  assert len(jax.tree.leaves(only)) == 4


@pytest.mark.parametrize("form", [Quantization("int8", stored=True), Quantization("int4", stored=True)])
def test_integers_stay_and_decode_as_they_evaluate(form):
  """QLoRA: the base's integers lie under the adapters; a step of decoding gives what a segment does."""
  made = tiny.make(embed_dim=32, head_dim=8, mlp_dim=32, norm_position="pre")
  base = form(made.params, made.lm.declared[1])
  model = adapted(made, form)
  whole = model.whole(filled(model), {"base": base})
  same = low_rank.merged(whole)
  assert {leaf.dtype for leaf in jax.tree.leaves(same)} & {jnp.dtype("int8"), jnp.dtype("uint8")}
  dense = low_rank.merged(model.whole(filled(model), {"base": jax.tree.map(
      lambda one: one.dense(jnp.float32) if hasattr(one, "dense") else one, base,
      is_leaf=lambda x: hasattr(x, "dense"))}))
  expected = logits(made.lm, dense)
  np.testing.assert_allclose(logits(model.whole_model, whole), expected, atol=2e-4)
  tokens, ones = tiny.random_tokens(made.config, LENGTH), jnp.ones((ROWS, LENGTH - 1), jnp.int32)

  @tiny.jit
  def decode(params):
    lm = model.whole_model
    _, memory = lm.prefill(params, tokens[:, :-1], ones, lm.initial_memory(ROWS, LENGTH, projected=True))
    return lm.decode_step(params, tokens[:, -1], lm.start_decoding(params, memory))[0]

  np.testing.assert_allclose(decode(whole), expected[:, -1], atol=2e-4)


def test_a_step_moves_adapters_alone():
  """Its gradient is that of the merged model's, through the factors; the base is no part of what is trained."""
  made = tiny.make(norm_position="pre")
  model, objective = adapted(made), NextToken()
  tokens = tiny.random_tokens(made.config, LENGTH + 1)
  batch = {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
           "decoder_segment_ids": np.ones((ROWS, LENGTH), np.int32),
           "decoder_loss_weights": np.ones((ROWS, LENGTH), np.float32)}
  step = TrainStep(model, objective, lambda declarations: optax.sgd(1.0))
  params = filled(model)
  state = TrainState(jnp.zeros((), jnp.int32), params, step.transformation.init(params),
                     objective.initial_memory(model, ROWS, 0), {"base": made.params})
  after, metrics = jax.jit(step)(state, batch)
  moved = jax.tree.map(lambda new, old: old - new, after.params, params)

  def loss(base):
    sums, _ = objective(made.lm, base, {}, batch, state.memory, jax.random.key(0))
    return sums["loss"].value / sums["loss"].weight

  merged = low_rank.merged(model.whole(params, {"base": made.params}))
  found, gradient = jax.jit(jax.value_and_grad(loss))(merged)
  np.testing.assert_allclose(metrics["loss"], found, rtol=1e-5)
  for name in ("query", "out"):
    one, kernel = params["layers"]["attention"][name], np.float64(gradient["layers"]["attention"][name])
    low = np.float64(one["low"])
    summed = kernel.shape[1:low.ndim - 1]
    count = len(summed)
    for i in range(len(kernel)):
      by_high = np.tensordot(low[i], kernel[i], (range(count), range(count))) * 1.5
      np.testing.assert_allclose(moved["layers"]["attention"][name]["high"][i], by_high, rtol=1e-3, atol=1e-6)
  assert after.frozen["base"].keys() == made.params.keys() and jax.tree.structure(after.params) == jax.tree.structure(
      params)


@pytest.mark.parametrize("options, words", [
    (dict(rank=0), "LowRank.rank = 0 must be at least 1"), (dict(alpha=0.0), "LowRank.alpha = 0.0 must be above 0"),
    (dict(kernels="("), "is no regular expression"), (dict(kernels="query"), "matches no hidden kernel")])
def test_what_is_wrong_is_said(options, words):
  with pytest.raises(UserError, match=words.replace("(", r"\(")):
    adapted(tiny.make(), **options).init(jax.random.key(0))


def test_another_base_is_refused():
  base = SavedModel("LowRank.base", "there", tiny.make(mlp_dim=20).lm)
  model = LanguageModel(tiny.make().config, LowRank("there", saved=base))
  with pytest.raises(UserError, match="'there' has TransformerConfig.mlp_dim = 20, and this model 14: make"):
    model.init(jax.random.key(0))
  small = SavedModel("LowRank.base", "there", LanguageModel(tiny.make().config, Quantization(
      activations=True, stored=True)))
  with pytest.raises(UserError, match="has no gradient: compress it with"):
    LanguageModel(tiny.make().config, LowRank("there", saved=small)).init(jax.random.key(0))
