"""The fused attention kernel, interpreted, against the plain one; and through the TPU compiler where there is one."""

import contextlib
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models import attention, flash
from gpt4x.models.masks import Mask
from gpt4x.partitioning import Partitioner
from gpt4x.planning import compiler
from gpt4x.planning.chips import parse_topology
from tests.models import products, tiny
from tests.models.tiny import LENGTH

ROWS, DIM = 2, 16

# heads, kv heads, length, total, block, band, window, relative, documents
CASES = {
    "one block": (2, 2, 16, 16, 16, 16, None, True, False),
    "memory": (1, 1, 32, 64, 16, 8, None, True, False),
    "documents": (1, 1, 32, 48, 16, 8, None, True, True),
    "window": (1, 1, 32, 80, 16, 8, 21, True, False),
    "window of a block and two": (1, 1, 32, 64, 16, 8, 18, True, True),
    "grouped heads": (4, 2, 32, 48, 16, 8, None, True, True),
    "padding": (2, 1, 21, 50, 16, 8, 30, True, True),
    "no positions": (4, 2, 32, 50, 16, 8, None, False, True),
}


def plain(query, position_query, keys, values, position_keys, query_segments, key_segments, window):
  """The same by whole matrices of scores, as gpt4x.models.attention has it."""
  group = query.shape[1] // keys.shape[1]
  repeat = lambda x, axis: jnp.repeat(x, group, axis)
  scores = jnp.einsum("bhlk,bhtk->bhlt", query, repeat(keys, 1))
  if position_keys is not None:
    by_distance = jnp.einsum("bhlk,hsk->bhls", position_query, repeat(position_keys, 0))
    scores += attention.relative_shift(by_distance, query.shape[2], keys.shape[2])
  mask = Mask(query_segments, key_segments, window=window).block()
  scores = jnp.where(mask[:, None], scores * query.shape[-1]**-0.5, flash.MASKED)
  return jnp.einsum("bhlt,bhtk->bhlk", jax.nn.softmax(scores), repeat(values, 1))


def make(heads, kv_heads, length, total, relative, documents):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  segments = np.ones((ROWS, total), np.int32)
  if documents:
    segments[1] = np.repeat(np.arange(total), 13)[:total]  # Its first 13 are empty memory or padding.
  return dict(
      query=draw(ROWS, heads, length, DIM), position_query=draw(ROWS, heads, length, DIM) if relative else None,
      keys=draw(ROWS, kv_heads, total, DIM), values=draw(ROWS, kv_heads, total, DIM),
      position_keys=draw(kv_heads, total + 3, DIM) if relative else None), dict(
          query_segments=jnp.asarray(segments[:, total - length:]), key_segments=jnp.asarray(segments))


@pytest.mark.parametrize("heads, kv_heads, length, total, block, band, window, relative, documents", CASES.values(),
                         ids=CASES)
def test_values_and_gradients(heads, kv_heads, length, total, block, band, window, relative, documents):
  inputs, segments = make(heads, kv_heads, length, total, relative, documents)
  gradient = jnp.asarray(np.random.default_rng(1).normal(size=inputs["query"].shape), jnp.float32)

  @functools.partial(tiny.jit, static_argnums=0)
  def run(attend, inputs):
    values, pull = jax.vjp(lambda inputs: attend(**inputs, **segments, window=window), inputs)
    return values, *pull(gradient)

  fused = functools.partial(flash.relative_attention, block=block, band=band)
  (actual, actual_gradients), (expected, gradients) = run(fused, inputs), run(plain, inputs)
  np.testing.assert_allclose(actual, expected, atol=2e-6)
  for name, expected in gradients.items():
    if expected is not None:
      np.testing.assert_allclose(actual_gradients[name], expected, atol=1e-5, err_msg=name)


def value_and_gradients(model, tokens, documents):
  """Log-probabilities of a second segment, after a first one, and the gradients of some sum of them."""
  weights = np.random.default_rng(2).normal(size=(*tokens.shape[:1], LENGTH, model.config.vocab_size))

  def run(params):
    _, memory = model.lm.log_probs(params, tokens[:, :LENGTH], segment_ids=documents[:, :LENGTH])
    values, _ = model.lm.log_probs(params, tokens[:, LENGTH:], memory, documents[:, LENGTH:])
    return jnp.sum(values * weights), values

  (_, values), gradients = tiny.jit(jax.value_and_grad(run, has_aux=True))(model.params)
  return values, gradients


@pytest.mark.parametrize("changes, mesh, rows", [
    (dict(same_length=True), None, 3),
    (dict(num_kv_heads=2, untie_biases=True), dict(data=2, tensor=2), 4),
    (dict(num_kv_heads=2, positions="rotary", remat="full"), dict(data=2, tensor=2), 3),
], ids=["one device", "mesh", "rows that do not divide"])
def test_a_model_with_the_kernel(changes, mesh, rows, monkeypatch):
  small = functools.partial(flash.relative_attention, block=8, band=8)
  monkeypatch.setattr(flash, "relative_attention", small)
  changes = dict(memory_length=7, norm_position="pre", **changes)
  plain, fused = tiny.make(**changes), tiny.make(**changes, attention_kernel="flash")
  tokens = np.resize(tiny.random_tokens(plain.config, 2 * LENGTH), (rows, 2 * LENGTH))
  documents = np.resize(tiny.random_documents(2 * LENGTH), (rows, 2 * LENGTH))
  expected = value_and_gradients(plain, tokens, documents)
  with Partitioner(**mesh, num_devices=4).activate() if mesh else contextlib.nullcontext():
    actual = value_and_gradients(fused, tokens, documents)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), actual, expected)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed (extra tpu)")
@pytest.mark.parametrize("relative, window", [(True, 2048), (False, None)])
def test_it_compiles_for_a_tpu(relative, window):
  device, = compiler.topology_devices(parse_topology("v5p:1x1x1"))
  sharding = jax.sharding.SingleDeviceSharding(device)
  shape = lambda *sizes, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)
  heads, kv_heads, length, total, dim = 16, 8, 2048, 4096, 128
  query, key = shape(1, heads, length, dim), shape(1, kv_heads, total, dim)
  inputs = (query, query if relative else None, key, key, shape(kv_heads, total + 1, dim) if relative else None)
  segments = shape(1, length, dtype=jnp.int32), shape(1, total, dtype=jnp.int32)

  def run(inputs, segments, gradient):
    values, pull = jax.vjp(lambda *inputs: flash.relative_attention(*inputs, *segments, window), *inputs)
    return values, pull(gradient)

  compiled = jax.jit(run).lower(inputs, segments, query).compile()
  assert compiled.as_text().count("tpu_custom_call") >= 2
  # Fewer than even the scores of a single head would be.
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * total
  # Three products forward and eight backward, of the 26 pairs of blocks of 512 that meet; a window of 2,048 leaves 20.
  products = 7 + 4 * 640 / 512 if relative else 7
  pairs = 20 if relative else 26
  assert compiled.cost_analysis()["flops"] == pytest.approx(heads * pairs * products * 2 * 512**2 * dim, rel=0.05)


def test_bfloat16_is_summed_in_float32():
  """Over many keys: values and gradients are as near to those of float32 as rounding their operands allows."""
  inputs, segments = make(2, 1, 64, 512, True, False)
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs)
  gradient = jnp.asarray(np.random.default_rng(1).normal(size=inputs["query"].shape), jnp.bfloat16)

  def run(attend, inputs, dtype):
    values, pull = jax.vjp(lambda inputs: attend(**inputs, **segments, window=None), inputs)
    return jax.tree.map(lambda x: x.astype(jnp.float32), (values, *pull(gradient.astype(dtype))))

  fused = functools.partial(flash.relative_attention, block=16, band=8)
  bfloat16 = functools.partial(run, fused, dtype=jnp.bfloat16)
  assert products.dtypes(bfloat16, rounded) == {("bfloat16", "bfloat16", "float32")}
  actual = tiny.jit(bfloat16)(rounded)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
  expected = tiny.jit(functools.partial(run, plain, dtype=jnp.float32))(exact)
  for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert np.linalg.norm(one - other) < 0.004 * np.linalg.norm(other)


def test_a_prefix_is_left_to_the_plain_kernel():
  """The fused one never looks ahead."""
  changes = dict(memory_length=7, norm_position="pre")
  plain, fused = tiny.make(**changes), tiny.make(**changes, attention_kernel="flash")
  tokens = tiny.random_tokens(plain.config, LENGTH)
  prefix = np.zeros_like(tokens)
  prefix[:, :3] = 1
  found, expected, causal = (
      model.lm.logits(plain.params, tokens, model.lm.initial_memory(len(tokens)), prefix=marks)[0]
      for model, marks in ((fused, prefix), (plain, prefix), (plain, None)))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert np.abs(found - causal).max() > 1e-2
