"""Activations by name out of the stack, and log-probabilities of tokens without all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.models.layer import CAPTURES
from tests.models import tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

_STACKS = {"scanned": STYLES["modern"], "blocks": STYLES["mixture"], "apart": dict(scan_layers=False),
           "shared": dict(num_layers=4, share_layers=2, norm_position="pre")}


@pytest.mark.parametrize("stack", _STACKS)
def test_captures_are_the_streams_parts(stack):
  """What the layers add to the embedding, with pre-norm, is what the last one leaves; nothing else changes."""
  model = tiny.make(**{**_STACKS[stack], "norm_position": "pre", "memory_length": LENGTH})
  tokens, memory = tiny.random_tokens(model.config, LENGTH), model.lm.initial_memory(ROWS)
  n = model.config.num_layers
  names = ["embedding", "final", *(f"layers.{i}.{name}" for i in range(n) for name in CAPTURES)]
  run = tiny.jit_by_default(
      lambda params, names: model.lm.forward(params, tokens, memory, capture=names), static_argnums=1)
  output, plain = run(model.params, tuple(names)), run(model.params, ())
  assert set(output.captures) == set(names) and not plain.captures
  np.testing.assert_array_equal(output.hidden, plain.hidden)
  np.testing.assert_array_equal(output.captures["final"], output.hidden)
  stream = output.captures["embedding"]
  for i in range(n):
    stream = stream + output.captures[f"layers.{i}.attention"] + output.captures[f"layers.{i}.mlp"]
    np.testing.assert_allclose(output.captures[f"layers.{i}.output"], stream, atol=1e-4)
  assert jax.tree.map(jnp.shape, output.captures) == dict.fromkeys(names, (ROWS, LENGTH, model.config.embed_dim))


@pytest.mark.parametrize("stack", _STACKS)
def test_a_step_of_decoding_has_the_captures_of_a_segment(stack):
  model = tiny.make(**_STACKS[stack])
  tokens, names = tiny.random_tokens(model.config, LENGTH), ("embedding", "final", "layers.0.mlp_input", "layers.1.mlp")

  def run(params):
    past = model.lm.initial_memory(ROWS, LENGTH, projected=True)
    whole = model.lm.forward(params, tokens, past, window=LENGTH, capture=names).captures
    _, memory = model.lm.prefill(params, tokens[:, :-1], jnp.ones_like(tokens[:, :-1]), past)
    hidden, _, found = model.lm.module.apply(
        {"params": params}, tokens[:, -1], model.lm.start_decoding(params, memory), jnp.ones(ROWS, jnp.int32), names,
        method="step")
    return whole, hidden, found

  whole, hidden, found = tiny.jit(run)(model.params)
  assert set(found) == set(names)
  for name in names:
    np.testing.assert_allclose(found[name][:, 0], whole[name][:, -1], rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found["final"], hidden)


@pytest.mark.parametrize("name", ["layers.2.mlp", "layers.0.wi", "mlp", "layers.-1.mlp"])
def test_a_name_that_there_is_not(name):
  model = tiny.make()
  with pytest.raises(UserError, match="no activation .* to capture: use embedding, final or layers.I.NAME, I below 2"):
    model.lm.forward(model.params, np.zeros((1, 2), np.int32), model.lm.initial_memory(1), capture=[name])


@pytest.mark.parametrize("style", ["modern", "adaptive"])
def test_log_probs_of_tokens(style):
  """With chunks that do not divide the length, gradients included; no array has all logits."""
  model = tiny.make(**STYLES[style], memory_length=0)
  tokens, targets = tiny.random_tokens(model.config, LENGTH), tiny.random_tokens(model.config, LENGTH, seed=1)
  hidden = model.lm.forward(model.params, tokens, model.lm.initial_memory(ROWS)).hidden

  def chunked(params, hidden):
    return model.lm.token_log_probs(params, hidden, targets)

  def plain(params, hidden):
    log_probs = jax.nn.log_softmax(model.lm.unembed(params, hidden))
    return jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]

  for of in (lambda f: f, lambda f: jax.grad(lambda *arguments: jnp.sum(f(*arguments) ** 2), argnums=(0, 1))):
    found, expected = (tiny.jit(of(f))(model.params, hidden) for f in (chunked, plain))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), found, expected)
  if model.lm.logits_chunk:
    whole = f"{ROWS}x{LENGTH}x{model.config.vocab_size}x"
    assert whole not in jax.jit(jax.grad(lambda *arguments: jnp.sum(chunked(*arguments)))).lower(
        model.params, hidden).as_text()


def test_a_memory_is_split_joined_and_rolled():
  """Of layer inputs and of keys and values: rows and positions move together with their documents."""
  model = tiny.make()
  for projected in (False, True):
    memory = model.lm.initial_memory(4, 6, projected)
    count = iter(range(100))
    memory = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) + next(count), memory)
    parts = memory.split(2)
    assert parts.segment_ids.shape == (2, 2, 6)
    np.testing.assert_array_equal(parts.segment_ids[1], memory.segment_ids[1::2])
    jax.tree.map(np.testing.assert_array_equal, parts.join(), memory)
    rolled, rows = memory.roll(2), 2 if projected else 1
    np.testing.assert_array_equal(rolled.segment_ids, np.roll(memory.segment_ids, 2, 1))
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, np.roll(other, 2, rows + 1)),
                 rolled.layers, memory.layers)
    ranks = jax.tree.map(lambda leaf, axes: leaf.ndim == len(axes), memory, memory.logical_axes())
    assert all(jax.tree.leaves(ranks))
