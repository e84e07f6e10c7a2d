"""Products of eight bits in training: against plain NumPy of the same rounded factors, and in whole models."""

import jax
import ml_dtypes
import numpy as np
import pytest

from gpt4x.compression import training_products
from gpt4x.compression.training_products import rounded_product, TrainingProducts
from gpt4x.errors import UserError
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.models.tiny import LENGTH, STYLES

FORMS = {"int8": TrainingProducts(), "fp8": TrainingProducts("fp8")}
SHAPES = [((4, 5, 8), (8, 3, 6), 1), ((4, 5, 3, 6), (3, 6, 8), 2), ((7, 8), (8, 10), 1)]  # x, kernel, its axes I.


def rounded(x, axes, kind):
  """What x is rounded to, in float64."""
  x = x.astype(np.float32)
  most = {"int8": 127, "e4m3": 448, "e5m2": 57344}[kind]
  scale = np.abs(x).max(axes, keepdims=True) / np.float32(most)
  if kind == "int8":
    return np.rint(x / scale).astype(np.float64) * scale
  dtype = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[kind]
  return (x / scale).astype(dtype).astype(np.float64) * scale


def reference(x, kernel, g, count, form):
  """y, and the gradients of x and kernel by that of y."""
  values, small = ("int8", "int8") if form.format == "int8" else ("e4m3", "e5m2")
  lead = tuple(range(x.ndim - count))
  inputs, outputs = tuple(range(len(lead), x.ndim)), tuple(range(len(lead), g.ndim))
  first, last = tuple(range(count)), tuple(range(count, kernel.ndim))
  y = np.tensordot(rounded(x, inputs, values), rounded(kernel, first, values), (inputs, first))
  dx = np.tensordot(rounded(g, outputs, small), rounded(kernel, last, values), (outputs, last))
  return y, dx, np.tensordot(rounded(x, lead, values), rounded(g, lead, small), (lead, lead))


def draw(x, kernel, count):
  rng = np.random.default_rng(0)
  shapes = x, kernel, (*x[:len(x) - count], *kernel[count:])
  return [(rng.normal(size=shape) * rng.lognormal(size=shape)).astype(np.float32) for shape in shapes]


def run(x, kernel, g, count, form):
  y, pull = jax.vjp(lambda x, kernel: rounded_product(x, kernel, count, form), x, kernel)
  return y, *pull(g)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("x, kernel, count", SHAPES)
def test_products_are_those_of_the_rounded_factors(x, kernel, count, form):
  x, kernel, g = draw(x, kernel, count)
  for found, expected in zip(run(x, kernel, g, count, FORMS[form]), reference(x, kernel, g, count, FORMS[form])):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form, error", [("int8", 0.02), ("fp8", 0.08)])
def test_rounding_moves_them_little(form, error):
  x, kernel, g = draw((16, 32), (32, 24), 1)
  found = run(x, kernel, g, 1, FORMS[form])
  for one, whole in zip(found, (x @ kernel, g @ kernel.T, x.T @ g)):
    assert 1e-4 < np.linalg.norm(one - whole) / np.linalg.norm(whole) < error


def test_many_rows_are_summed_in_parts(monkeypatch):
  """Each has scales of its own, and none has more rows than integers have room for."""
  monkeypatch.setattr(training_products, "_ROWS", 10)
  x, kernel, g = draw((4, 5, 8), (8, 6), 1)
  parts = [reference(x[i:i + 2], kernel, g[i:i + 2], 1, FORMS["int8"])[2] for i in (0, 2)]
  np.testing.assert_allclose(run(x, kernel, g, 1, FORMS["int8"])[2], sum(parts), rtol=1e-4, atol=1e-4)


def test_gradients_that_are_left_whole():
  x, kernel, g = draw((16, 8), (8, 6), 1)
  _, dx, _ = reference(x, kernel, g, 1, FORMS["int8"])
  for gradients, of_inputs in (("inputs", dx), ("none", g @ kernel.T)):
    _, found, of_kernel = run(x, kernel, g, 1, TrainingProducts(gradients=gradients))
    np.testing.assert_allclose(found, of_inputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_kernel, x.T @ g, rtol=1e-4, atol=1e-4)


def batch_of(config, rows=4):
  tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, LENGTH + 1), dtype=np.int32)
  ones = np.ones((rows, LENGTH), np.int32)
  return dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:], decoder_segment_ids=ones,
              decoder_loss_weights=ones.astype(np.float32))


@pytest.mark.parametrize("stack, form", [("scanned", "int8"), ("mixture", "int8"), ("modern", "fp8")])
def test_models_train(stack, form):
  """The loss falls, from a state as any run has it, and the same state gives the same next one."""
  smaller = dict(num_layers=2, remat="none")
  config = tiny.make(**{"scanned": {}, **STYLES}[stack] | smaller, memory_length=LENGTH).config
  model, partitioner = LanguageModel(config, FORMS[form]), Partitioner(data=1, num_devices=1)
  step, plain = (TrainStep(one, NextToken(), optimizers.adamw(0.02)) for one in (model, LanguageModel(config)))
  shapes = state_shapes(step, 4, LENGTH, partitioner)
  assert shapes == state_shapes(plain, 4, LENGTH, partitioner)  # What is saved says nothing of how it is trained.
  advance, state = tiny.jit(step), init_state(step, shapes, partitioner)
  losses = []
  for _ in range(12):
    before, (state, metrics) = state, advance(state, batch_of(config))
    losses.append(metrics["loss"])
  assert losses[-1] < 0.8 * losses[0]
  jax.tree.map(np.testing.assert_array_equal, advance(before, batch_of(config))[0], state)


def test_only_training_is_rounded():
  made = tiny.make(**STYLES["modern"])
  model, tokens = LanguageModel(made.config, FORMS["int8"]), tiny.random_tokens(made.config, LENGTH)
  forward = tiny.jit(lambda params, rng: model.forward(params, tokens, model.initial_memory(len(tokens)), None,
                                                       dropout_rng=rng).hidden)
  expected = made.lm.forward(made.params, tokens, made.lm.initial_memory(len(tokens))).hidden
  np.testing.assert_allclose(forward(made.params, None), expected, atol=1e-5)
  assert 1e-3 < np.abs(forward(made.params, jax.random.key(0)) - expected).max() < 0.5


def test_what_is_rounded():
  """Hidden kernels, but for experts: neither vocabulary nor routers."""
  model = LanguageModel(tiny.make(**STYLES["mixture"]).config, FORMS["int8"])
  params, declarations = model.declared
  used = model.form.used(params, declarations, training=True)

  def of(tree):
    return {jax.tree_util.keystr(path[:-1], simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tree) if path[-1] == jax.tree_util.GetAttrKey("array")}

  assert {name.split("/")[-1] for name in of(used)} == {
      "query", "key", "value", "relative_key", "out", "wi", "wi_gate", "wo"}
  assert not any("moe/wi" in name or "moe/wo" in name for name in of(used)) and not of(params)


def test_a_mesh_gives_the_same():
  config = tiny.make(num_heads=8, head_dim=8, embed_dim=64, mlp_dim=128, vocab_size=64).config
  model, batch = LanguageModel(config, FORMS["int8"]), batch_of(config, 8)
  params = tiny.random_params(model)

  def loss(params):
    return NextToken()(model, params, {}, batch, model.initial_memory(8), jax.random.key(0))[0]["loss"].mean

  expected = tiny.jit(jax.value_and_grad(loss))(params)
  partitioner = Partitioner(data=2, fsdp=2, tensor=2)
  with partitioner.activate():
    placed = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, partitioner.place(*model.declared)))
    found = jax.jit(jax.value_and_grad(loss))(placed)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
  for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1])):
    assert np.linalg.norm(one - other) <= 0.02 * np.linalg.norm(other) + 1e-6


@pytest.mark.parametrize("arguments, message", [
    (dict(format="int4"), "TrainingProducts.format = 'int4' is unknown: choose one of int8, fp8"),
    (dict(gradients="some"), "TrainingProducts.gradients = 'some' is unknown")])
def test_mistakes_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    TrainingProducts(**arguments)
