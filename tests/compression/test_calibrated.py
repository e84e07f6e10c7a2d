"""Integers of four bits by what kernels multiply: less error than the nearest, on models of any stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.compression import calibrated, calibration, integers
from gpt4x.compression.quantization import arrays, Quantization
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import Declaration
from tests.compression.test_pruning import batches
from tests.models import tiny
from tests.models.tiny import LENGTH, STYLES

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape, names, summed", [
    ((64, 4, 6), ("embed", "heads", "kv"), ("embed",)), ((4, 16, 12), ("heads", "kv", "embed"), ("heads", "kv")),
    ((30, 64), ("vocab", "embed"), ("embed",)), ((2, 64, 12), ("layers", "mlp", "embed"), ("mlp",))])
def test_both_ways_err_less_than_rounding(shape, names, summed):
  declaration = Declaration(names, summed)
  kernel = jnp.asarray(RNG.normal(size=shape) * RNG.uniform(0.3, 3, shape), jnp.float32)
  size = calibration.matrices(kernel, declaration).shape[1]
  count = shape[0] if names[0] == "layers" else 1
  inputs = RNG.normal(size=(count, 500, 20)) @ RNG.normal(size=(count, 20, size)) * RNG.uniform(0.1, 3, size)
  moments = np.swapaxes(inputs, 1, 2) @ inputs
  moments = moments if names[0] == "layers" else moments[0]

  def error(method):
    form = Quantization("int4", scaled_inputs=method == "awq", stored=True)
    made = calibrated.quantized(form, kernel, None if method == "round" else moments, declaration, method)
    assert isinstance(made, integers.Int4) and made.values.size == kernel.size // 2
    difference = calibration.matrices(made.dense(jnp.float32), declaration) - calibration.matrices(kernel, declaration)
    return np.square(inputs @ difference).sum()

  errors = {method: error(method) for method in ("round", "gptq", "awq")}
  assert errors["gptq"] < 0.5 * errors["round"] and errors["awq"] < 0.9 * errors["round"]


@pytest.mark.parametrize("style", [{}, STYLES["modern"], STYLES["mixture"], STYLES["adaptive"]])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_model_of_any_stack_is_fitted(style, method):
  """The parameters have the shapes that their form declares, and say about what the arrays do."""
  made = tiny.make(**style, memory_length=LENGTH)
  form = Quantization("int4", scaled_inputs=method == "awq", stored=True)
  model, declarations = LanguageModel(made.config, form), made.lm.declared[1]
  moments = calibration.moments(made.lm, made.params, batches(made.config), LENGTH)
  params = calibrated.quantized(form, made.params, moments, declarations, method)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
      lambda x: (x.shape, x.dtype), model.declared[0])
  tokens = tiny.random_tokens(made.config, LENGTH)
  found, _ = tiny.jit(model.log_probs)(params, tokens)
  np.testing.assert_allclose(found, tiny.jit(made.lm.log_probs)(arrays(params, declarations), tokens)[0], atol=1e-4)


def test_experts_that_no_text_was_seen_of_are_rounded_to_the_nearest():
  """Their moments are zero; so are those of a kernel that the text never came to."""
  made = tiny.make(**STYLES["mixture"], memory_length=LENGTH)
  form, declarations = Quantization("int4", stored=True), made.lm.declared[1]
  moments = calibration.moments(made.lm, made.params, batches(made.config), LENGTH)
  nearest = calibrated.quantized(form, made.params, None, declarations, "round")
  found = calibrated.quantized(form, made.params, moments, declarations, "gptq")
  unseen = calibrated.quantized(form, made.params, jax.tree.map(np.zeros_like, moments), declarations, "gptq")
  dense = lambda params: {path: np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(
      arrays(params, declarations))}
  experts = {path for path, one in jax.tree_util.tree_leaves_with_path(
      declarations, is_leaf=lambda x: isinstance(x, Declaration)) if "expert" in one.names and one.is_kernel}
  assert experts
  for path in experts:
    np.testing.assert_array_equal(dense(found)[path], dense(nearest)[path])
  assert any(np.any(dense(found)[path] != one) for path, one in dense(nearest).items())
  for path, one in dense(nearest).items():
    np.testing.assert_array_equal(dense(unseen)[path], one)
