"""Quantization of whole models, whatever their stack: what they compute, what they take, what training sees."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.compression import integers
from gpt4x.compression.quantization import Quantization
from gpt4x.errors import UserError
from gpt4x.models import attention, integer_products
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import map_declared, Substitute
from gpt4x.models.rounding import rounded
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from tests.models import tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

_STACKS = {
    "scanned": {}, "rotary": STYLES["modern"], "apart": STYLES["same_length"], "mixture": STYLES["mixture"],
    "shared": dict(num_layers=4, share_layers=2), "adaptive": STYLES["adaptive"],
    "tied": STYLES["tied_projections"],
}
_FORMS = {"int8": Quantization(stored=True), "int4": Quantization("int4", stored=True)}


def dense(params, declarations):
  return map_declared(lambda leaf, _: leaf.dense(jnp.float32) if isinstance(leaf, Substitute) else leaf,
                        params, declarations)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("stack", _STACKS)
def test_a_quantized_model_computes_what_its_arrays_do(stack, form):
  """Over two segments with memory, and while decoding."""
  made = tiny.make(**_STACKS[stack], memory_length=LENGTH)
  model = LanguageModel(made.config, _FORMS[form])
  shapes, declarations = model.declared
  params = _FORMS[form](made.params, declarations)
  jax.tree.map(lambda shape, leaf: np.testing.assert_equal((shape.shape, shape.dtype), (leaf.shape, leaf.dtype)),
               shapes, params)
  tokens = tiny.random_tokens(made.config, 2 * LENGTH)

  def run(model, params):
    memory, found = model.initial_memory(ROWS), []
    for start in (0, LENGTH):
      log_probs, memory = model.log_probs(params, tokens[:, start:start + LENGTH], memory)
      found.append(log_probs)
    ones = jnp.ones((ROWS, LENGTH), jnp.int32)
    empty = model.initial_memory(ROWS, LENGTH, projected=True)
    _, memory = model.prefill(params, tokens[:, :LENGTH], ones, empty)
    logits, _ = model.decode_step(params, tokens[:, LENGTH], model.start_decoding(params, memory))
    return *found, jax.nn.log_softmax(logits)

  found, expected = tiny.jit(lambda params: run(model, params))(params), tiny.jit(
      lambda params: run(made.lm, params))(dense(params, declarations))
  for one, other in zip(found, expected):
    np.testing.assert_allclose(one, other, atol=5e-5)


@pytest.mark.parametrize("style, near, tolerance", [
    ({}, 1e-4, 5e-3), (STYLES["same_length"], 1e-4, 5e-3), (STYLES["modern"], 0.05, 0.05),
    (dict(num_heads=4, num_kv_heads=2, head_dim=8), 1e-4, 5e-3)])
def test_a_memory_of_integers_decodes_as_it_evaluates(style, near, tolerance):
  """Over three windows, so that the ring wraps; queries have 15 bits. A key that lies between two integers may become
  either, for some rows' later tokens. Rotary keys are rounded as they are rotated, by their slot."""
  made = tiny.make(**{**style, "memory_length": LENGTH})
  model = LanguageModel(dataclasses.replace(made.config, memory_dtype="int8"))
  tokens = tiny.random_tokens(made.config, 3 * LENGTH)
  ones = jnp.ones((ROWS, 1), jnp.int32)

  @tiny.jit
  def decode(params):
    _, memory = model.prefill(params, tokens[:, :1], ones, model.initial_memory(ROWS, LENGTH, projected=True))
    return jax.lax.scan(lambda cache, token: model.decode_step(params, token, cache)[::-1],
                        model.start_decoding(params, memory, 1), tokens[:, 1:].T)

  def evaluate(model):
    memory, found = model.initial_memory(ROWS, LENGTH, projected=True), []
    for place in range(3 * LENGTH):
      logits, memory = model.prefill(made.params, tokens[:, place:place + 1], ones, memory)
      found.append(logits)
    return jnp.stack(found)

  cache, found = decode(made.params)
  assert {leaf.dtype for leaf in jax.tree.leaves(cache.rings)} == {jnp.dtype("int8"), jnp.dtype("float32")}
  expected = tiny.jit(evaluate, static_argnums=0)(model)
  np.testing.assert_allclose(found, expected[1:], atol=tolerance)
  assert np.mean(np.abs(found - expected[1:]).max(-1) <= near) > 0.75
  assert np.abs(expected - tiny.jit(evaluate, static_argnums=0)(made.lm)).max() > 1e-4


@pytest.mark.parametrize("queries", [1, 4])
def test_attention_over_the_same_integers_is_exact(queries):
  """Whatever key or value a number was rounded to, so for every row, where decoding may round one otherwise."""
  rng = np.random.default_rng(0)
  query, keys, values = (rng.normal(size=(ROWS, rows, 16)).astype(np.float32) for rows in (queries, 37, 37))
  keys, values = rounded(jnp.asarray(keys)), rounded(jnp.asarray(values))
  found = tiny.jit(lambda query: attention.mixed_rows(jax.nn.softmax(attention.dot_rows(query, keys)), values))(query)
  keys, values = (np.asarray(rows.values, np.float64) * np.asarray(rows.steps, np.float64) for rows in (keys, values))
  scores = np.exp(np.einsum("brk,btk->brt", query.astype(np.float64), keys))
  np.testing.assert_allclose(found, np.einsum("brt,btk->brk", scores / scores.sum(-1, keepdims=True), values),
                             atol=1e-4)


def test_what_is_quantized():
  """Embeddings and output too; neither routers, norms nor biases; what has no halves has eight bits."""
  made = tiny.make(**STYLES["mixture"])
  _, declarations = made.lm.declared
  params = Quantization("int4")(made.params, declarations)

  def check(leaf, declaration):
    bits = {integers.Int4: 4, integers.Int8: 8}.get(type(leaf), 32)
    if not declaration.is_kernel or None in declaration.names:
      assert bits == 32
    else:
      summed = leaf.dense(jnp.float32).shape[declaration.summed_axes[-1]]
      assert bits == (8 if summed % 2 else 4)
    return bits

  bits = jax.tree.leaves(map_declared(check, params, declarations))
  assert set(bits) == {4, 8, 32}


def test_a_mesh_holds_integers_and_scales():
  made = tiny.make(num_heads=8, head_dim=8, embed_dim=64, mlp_dim=128, vocab_size=64)
  for form in _FORMS.values():
    model = LanguageModel(made.config, form)
    partitioner = Partitioner(fsdp=2, tensor=4)
    placed = partitioner.place(*model.declared)
    with partitioner.activate():
      params = jax.jit(lambda params: form(params, model.declared[1]),
                       out_shardings=jax.tree.map(lambda x: x.sharding, placed))(made.params)
      tokens = tiny.random_tokens(made.config, LENGTH)
      found, _ = jax.jit(model.log_probs)(params, tokens)
    expected, _ = tiny.jit(model.log_probs)(form(made.params, model.declared[1]), tokens)
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("form", [Quantization(), Quantization("int4"), Quantization(activations=True)])
def test_training_sees_rounded_kernels_and_moves_whole_ones(form):
  """The loss is that of the stored integers; the gradient that of the kernel they stand for."""
  made = tiny.make(memory_length=0)
  _, declarations = made.lm.declared
  trained, stored = LanguageModel(made.config, form), form(made.params, declarations)
  assert jax.tree.map(lambda x: x.shape, trained.declared[0]) == jax.tree.map(lambda x: x.shape, made.lm.declared[0])
  tokens = tiny.random_tokens(made.config, LENGTH + 1)
  batch = dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:],
               decoder_segment_ids=np.ones((ROWS, LENGTH), np.int32),
               decoder_loss_weights=np.ones((ROWS, LENGTH), np.float32))
  loss = lambda model: lambda params: NextToken()(
      model, params, {}, batch, model.initial_memory(ROWS), None)[0]["loss"].mean
  value, gradient = tiny.jit(jax.value_and_grad(loss(trained)))(made.params)
  np.testing.assert_allclose(value, tiny.jit(loss(made.lm))(stored), rtol=1e-5)
  if not form.activations:
    expected = tiny.jit(jax.grad(loss(made.lm)))(dense(stored, declarations))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("arguments, message", [
    (dict(weights="int3"), "Quantization.weights = 'int3' is unknown: choose one of int8, int4"),
    (dict(weights="int4", activations=True), "Quantization.activations = True needs weights = 'int8'"),
    (dict(scaled_inputs=True), "Quantization.scaled_inputs = True needs weights = 'int4'")])
def test_contradictions_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    Quantization(**arguments)


@pytest.mark.parametrize("native", [True, False])
def test_a_step_on_a_cpu_makes_no_array_of_a_kernel_or_of_the_ring(native, monkeypatch):
  """Integers are multiplied where they lie, and the ring is not copied."""
  if not native:
    monkeypatch.setattr(integer_products, "_registered", lambda: False)
  elif not integer_products.use_native():
    pytest.skip("no C++ compiler")
  made = tiny.make(vocab_size=160, embed_dim=64, num_heads=2, head_dim=32, mlp_dim=96, scan_layers=False)
  form = Quantization(activations=True, stored=True)
  model = LanguageModel(dataclasses.replace(made.config, memory_dtype="int8"), form)
  params = jax.eval_shape(lambda params: form(params, made.lm.declared[1]), made.params)
  cache = jax.eval_shape(model.start_decoding, params, jax.eval_shape(
      lambda: model.initial_memory(1, 80, projected=True)))
  tokens = jax.ShapeDtypeStruct((1,), jnp.int32)
  compiled = jax.jit(model.decode_step, donate_argnums=2).lower(params, tokens, cache).compile().as_text()
  sizes = {160 * 64, 64 * 3 * 64, 64 * 64, 64 * 96, 2 * 80 * 32}
  results = re.findall(r"^\s+(?:ROOT )?%([\w.-]+) = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(", compiled, re.MULTILINE)
  assert ("custom-call" if native else "dot") in {kind for *_, kind in results}
  for name, dtype, shape, kind in results:
    if math.prod(map(int, shape.split(","))) in sizes:
      assert dtype == "s8" and kind not in ("copy", "transpose", "convert"), name
