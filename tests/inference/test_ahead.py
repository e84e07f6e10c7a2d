"""Several tokens of one row at a time, on the ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference.test_extending import made, TEXT

OPTIONS = [
    {}, {"positions": "rotary", "norm_position": "pre", "num_kv_heads": 1}, {"scan_layers": False, "clamp_length": 4},
    {"empty_memory": "zeros"}, {"positions": "rotary", "num_kv_heads": 2, "scan_layers": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=["paper", "rotary", "unscanned", "zeros", "grouped"])
def test_tokens_ahead_are_what_steps_make_of_them(options):
  """Wherever the ring is, and as many of them as are right."""
  engine, params = made(**options)
  step, ahead = jax.jit(engine.model.decode_step), jax.jit(engine.model.decode_ahead)
  after = jax.jit(lambda cache, new, count: cache.after(new, count))
  draw = np.random.default_rng(0)
  for read in (0, 2, 5, 20):
    cache = engine.start(params, engine.extend(params, engine.begin(params), TEXT[:read]) if read else
                         engine.begin(params)).cache
    for right in (0, 1, 3, 4, 2, 4):
      tokens = draw.integers(2, 24, 4)
      logits, new = ahead(params, jnp.array([tokens]), cache)
      expected, one = [], cache
      for place, token in enumerate(tokens):
        found, one = step(params, jnp.array([token]), one)
        expected.append(found)
        if place + 1 == right:
          wanted = one
      np.testing.assert_allclose(logits[0], np.concatenate(expected), atol=1e-4)
      cache = after(cache, new, right)
      if right:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, wanted)
