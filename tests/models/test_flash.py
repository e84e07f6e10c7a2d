"""The fused attention kernel, interpreted, against the plain one; and through the TPU compiler where there is one."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models import attention, flash

ROWS, DIM = 2, 16

# heads, kv heads, length, total, block, band, window, relative, documents
CASES = {
    "one block": (2, 2, 16, 16, 16, 16, None, True, False),
    "memory": (1, 1, 32, 64, 16, 8, None, True, False),
    "documents": (1, 1, 32, 48, 16, 8, None, True, True),
    "window": (1, 1, 32, 80, 16, 8, 21, True, False),
    "window of a block and one": (1, 1, 32, 64, 16, 8, 17, True, True),
    "grouped heads": (4, 2, 32, 48, 16, 8, None, True, True),
    "padding": (2, 1, 21, 50, 16, 8, 30, True, True),
    "no positions": (4, 2, 32, 50, 16, 8, None, False, True),
}


def plain(query, position_query, keys, values, relative_keys, query_segments, key_segments, window):
  """The same by whole matrices of scores, as gpt4x.models.attention has it."""
  group = query.shape[1] // keys.shape[1]
  repeat = lambda x, axis: jnp.repeat(x, group, axis)
  scores = jnp.einsum("bhlk,bhtk->bhlt", query, repeat(keys, 1))
  if relative_keys is not None:
    by_distance = jnp.einsum("bhlk,hsk->bhls", position_query, repeat(relative_keys, 0))
    scores += attention.relative_shift(by_distance, keys.shape[2])
  mask = attention.attention_mask(query_segments, key_segments, window)
  scores = jnp.where(mask[:, None], scores * query.shape[-1]**-0.5, attention.MASKED)
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
      relative_keys=draw(kv_heads, total + 3, DIM) if relative else None), dict(
          query_segments=jnp.asarray(segments[:, total - length:]), key_segments=jnp.asarray(segments))


@pytest.mark.parametrize("heads, kv_heads, length, total, block, band, window, relative, documents", CASES.values(),
                         ids=CASES)
def test_the_plain_attention(heads, kv_heads, length, total, block, band, window, relative, documents):
  inputs, segments = make(heads, kv_heads, length, total, relative, documents)
  fused = functools.partial(flash.relative_attention, window=window, block=block, band=band)
  actual = jax.jit(fused)(**inputs, **segments)
  expected = plain(**inputs, **segments, window=window)
  np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("heads, kv_heads, length, total, block, band, window, relative, documents", CASES.values(),
                         ids=CASES)
def test_the_plain_gradients(heads, kv_heads, length, total, block, band, window, relative, documents):
  inputs, segments = make(heads, kv_heads, length, total, relative, documents)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=inputs["query"].shape), jnp.float32)
  gradients = lambda attend: jax.jit(jax.grad(
      lambda inputs: jnp.sum(attend(**inputs, **segments, window=window) * weights)))(inputs)
  actual = gradients(functools.partial(flash.relative_attention, block=block, band=band))
  for name, expected in gradients(plain).items():
    if expected is not None:
      np.testing.assert_allclose(actual[name], expected, atol=1e-5, err_msg=name)
