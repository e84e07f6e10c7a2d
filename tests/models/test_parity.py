"""The model against tests/models/reference.py: log-probabilities, memories, gradients, decoding, and the counts."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.objectives.next_token import NextToken
from tests.models import reference, tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

_TOLERANCE = dict(rtol=0, atol=5e-5)  # Of log-probabilities down to -10, where float32 steps by 1e-6.

_OPTIONS = [
    [dict(), dict(untie_biases=True), dict(clamp_length=2), dict(positions="rotary")],
    [dict(memory_length=0), dict(memory_length=3), dict(memory_length=12), dict(memory_length=3, same_length=True)],
    [dict(), dict(tie_embeddings=False), dict(adaptive_cutoffs=(3, 7)),
     dict(adaptive_cutoffs=(3, 7), adaptive_divisor=2, tie_embeddings=False),
     dict(adaptive_cutoffs=(3, 7), adaptive_divisor=2, tie_projections=True),
     dict(adaptive_cutoffs=(3, 7), adaptive_divisor=2, vocab_embed_dim=12, tie_projections=(False, True, True)),
     dict(adaptive_cutoffs=(3, 7), vocab_embed_dim=6, tie_projections=(False, True, False), tie_embeddings=False),
     dict(adaptive_cutoffs=(3, 7), vocab_embed_dim=10), dict(vocab_embed_dim=6), dict(adaptive_divisor=2),
     dict(vocab_embed_dim=12, tie_projections=True, tie_embeddings=False)],
    [dict(num_kv_heads=heads) for heads in (4, 2, 1)],
    [dict(activation=activation) for activation in ("relu", "gelu", "swiglu")],
    [dict(norm="layer"), dict(norm="rms")],
    [dict(norm_position="post"), dict(norm_position="pre"), dict(empty_memory="zeros")],
    [dict(mlp_bias=True), dict(mlp_bias=False)],
    [dict(output_bias=False), dict(output_bias=True)],
    [dict(), dict(qkv_bias=True), dict(qk_norm=True), dict(qkv_bias=True, qk_norm=True)],
    [dict(), dict(scale_embeddings=False)],
    [dict(scan_layers=True), dict(scan_layers=False)],
]


def _pairwise(options):
  """Few choices of one value per option in which every two values of two options meet."""
  rng = random.Random(0)
  pairs = lambda row: set(itertools.combinations(enumerate(row), 2))
  missing = set().union(*(
      {((i, a), (j, b)) for a in range(len(options[i])) for b in range(len(options[j]))}
      for i, j in itertools.combinations(range(len(options)), 2)))
  rows = []
  while missing:
    (i, a), (j, b) = min(missing)
    candidates = [[rng.randrange(len(values)) for values in options] for _ in range(50)]
    for row in candidates:
      row[i], row[j] = a, b
    rows.append(max(candidates, key=lambda row: len(pairs(row) & missing)))
    missing -= pairs(rows[-1])
  return [{name: value for choice, values in zip(row, options) for name, value in values[choice].items()}
          for row in rows]


def _describe(changes):
  return "-".join(f"{name}={value}".replace(" ", "") for name, value in changes.items()) or "paper"


_GRID = pytest.mark.parametrize("changes", _pairwise(_OPTIONS), ids=_describe)


def _assert_close(actual, expected, segment_ids):
  """Agreement [B, L, ...] wherever there is a token: what padding attends to is nobody's business."""
  there = segment_ids > 0
  np.testing.assert_allclose(np.asarray(actual, np.float64)[there], expected[there], **_TOLERANCE)


def _assert_memories_close(actual, expected):
  hidden, segment_ids = expected
  np.testing.assert_array_equal(actual.segment_ids, segment_ids)
  for layer, expected_layer in zip(actual.layers, hidden):
    _assert_close(layer, expected_layer, segment_ids)


@_GRID
def test_log_probs_over_four_segments(changes):
  model = tiny.make(**changes)
  tokens, segment_ids = tiny.random_tokens(model.config, 4 * LENGTH), tiny.random_documents(4 * LENGTH)
  memory, expected_memory = model.lm.initial_memory(ROWS), None
  for start in range(0, 4 * LENGTH, LENGTH):
    now = np.s_[:, start:start + LENGTH]
    log_probs, memory = model.log_probs(model.params, tokens[now], memory, segment_ids[now])
    expected, expected_memory = reference.log_probs(
        model.params, model.config, tokens[now], segment_ids[now], expected_memory)
    _assert_close(log_probs, expected, segment_ids[now])
    _assert_memories_close(memory, expected_memory)


@_GRID
def test_num_params(changes):
  model = tiny.make(**changes)
  assert model.config.num_params() == sum(leaf.size for leaf in jax.tree.leaves(model.params))


def test_training_and_evaluation_memories_may_differ():
  model = tiny.make(memory_length=3, eval_memory_length=8)
  tokens, segment_ids = tiny.random_tokens(model.config, LENGTH), tiny.random_documents(LENGTH)
  for memory, length in ((model.lm.initial_memory(ROWS), 3), (None, 8)):
    expected_memory = reference.empty_memory(model.config, ROWS, length)
    for _ in range(3):
      log_probs, memory = model.log_probs(model.params, tokens, memory, segment_ids)
      assert memory.length == length
      expected, expected_memory = reference.log_probs(
          model.params, model.config, tokens, segment_ids, expected_memory)
      _assert_close(log_probs, expected, segment_ids)


@pytest.mark.parametrize("style", ["paper", "modern", "clamped"])
def test_prefix_lm(style):
  """Without a past, and with one, which no prefix reaches into."""
  model = tiny.make(**dict(STYLES, clamped=dict(clamp_length=2))[style], memory_length=LENGTH)
  tokens, segment_ids = tiny.random_tokens(model.config, 9), tiny.random_documents(9, seed=1)
  position = np.arange(9) - np.argmax(segment_ids[:, :, None] == segment_ids[:, None, :], axis=2)
  prefix = (position < 4).astype(np.int32)  # The first four of each document.
  run = tiny.jit(model.lm.logits)
  memory, expected_memory = model.lm.initial_memory(ROWS), None
  for _ in range(2):
    logits, memory = run(model.params, tokens, memory, segment_ids, prefix)
    causal, _ = reference.log_probs(model.params, model.config, tokens, segment_ids, expected_memory)
    expected, expected_memory = reference.log_probs(
        model.params, model.config, tokens, segment_ids, expected_memory, causal_attention=prefix)
    _assert_close(jax.nn.log_softmax(logits), expected, segment_ids)
    assert np.abs(expected - causal).max() > 0.1


@pytest.mark.parametrize("style", STYLES)
def test_gradients(style):
  """jax.grad, through each remat policy, against central differences of the reference in two directions a parameter.

  At a step of 1e-5 central differences in float64 are exact to about 1e-10, so the error is float32's: 6e-8 in each
  operation that a gradient passes, of a size that goes with the whole gradient rather than with its part along one
  direction. The largest seen is 1e-6 of the norm; a wrong or missing term is a part of the norm itself.
  """
  model = tiny.make(**STYLES[style], memory_length=7)
  tokens, segment_ids = tiny.random_tokens(model.config, LENGTH + 1), tiny.random_documents(LENGTH)
  rng = np.random.default_rng(0)
  weights = (rng.random((ROWS, LENGTH)) < 0.8).astype(np.float32)
  batch = dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:],
               decoder_segment_ids=segment_ids, decoder_loss_weights=weights)
  layers = rng.normal(size=(model.config.num_layers, ROWS, 7, model.config.embed_dim)).astype(np.float32)
  memory = model.lm.initial_memory(ROWS).replace(
      layers=jnp.asarray(layers), segment_ids=jnp.asarray(rng.integers(0, 2, (ROWS, 7)), jnp.int32))

  def loss(params):
    sums, _ = NextToken()(model.lm, params, {}, batch, memory, None)
    return sums["loss"].mean

  def expected_loss(params):
    log_probs, _ = reference.log_probs(
        params, model.config, tokens[:, :-1], segment_ids, (layers, np.asarray(memory.segment_ids)))
    return -np.sum(weights * np.take_along_axis(log_probs, tokens[:, 1:, None], -1)[..., 0]) / weights.sum()

  value, gradients = tiny.jit(jax.value_and_grad(loss))(model.params)
  np.testing.assert_allclose(value, expected_loss(model.params), rtol=1e-6)
  leaves, tree = jax.tree_util.tree_flatten_with_path(model.params)
  for i, ((path, leaf), gradient) in enumerate(zip(leaves, jax.tree.leaves(gradients))):
    gradient = np.asarray(gradient, np.float64)
    norm = np.linalg.norm(gradient)
    assert norm > 1e-4, f"{jax.tree_util.keystr(path)} does not matter here: nothing is tested"
    for direction in (gradient, rng.normal(size=gradient.shape)):
      direction = direction / np.linalg.norm(direction)

      def moved(step):
        values = [value for _, value in leaves]
        values[i] = leaf + step * direction
        return expected_loss(tree.unflatten(values))

      slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
      np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=0, atol=1e-5 * norm,
                                 err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("style", ["paper", "modern", "zeros", "mixture"])
def test_memory_of_keys_and_values(style):
  model = tiny.make(**STYLES[style], memory_length=7)
  tokens, segment_ids = tiny.random_tokens(model.config, 4 * LENGTH), tiny.random_documents(4 * LENGTH)
  plain, expected_memory = model.lm.initial_memory(ROWS, projected=True), None
  memories = [plain, model.lm.project_positions(model.params, plain, LENGTH + 1)]  # For longer segments than these.
  for start in range(0, 4 * LENGTH, LENGTH):
    now = np.s_[:, start:start + LENGTH]
    expected, expected_memory = reference.log_probs(
        model.params, model.config, tokens[now], segment_ids[now], expected_memory)
    for i, memory in enumerate(memories):
      log_probs, memories[i] = model.log_probs(model.params, tokens[now], memory, segment_ids[now])
      _assert_close(log_probs, expected, segment_ids[now])


@pytest.mark.parametrize("length, prefix", [(LENGTH, True), (LENGTH + 1, False)])
def test_positions_that_were_not_projected_for(length, prefix):
  """A segment that needs other distances than the memory has makes its own."""
  model = tiny.make(memory_length=7)
  tokens = tiny.random_tokens(model.config, length)
  marks = np.ones_like(tokens) if prefix else None
  memory = model.lm.initial_memory(ROWS, projected=True)
  projected = model.lm.project_positions(model.params, memory, LENGTH)
  logits, expected = (model.lm.logits(model.params, tokens, memory, prefix=marks)[0] for memory in (projected, memory))
  np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("style", ["paper", "modern", "zeros", "mixture"])
def test_decoding(style):
  """A prompt and then one token a step, far beyond the window, equal segments of one token of the same window."""
  window = 6
  model = tiny.make(**STYLES[style], memory_length=window)
  lm, params = model.lm, model.params
  tokens = tiny.random_tokens(model.config, 20)
  segment_ids = np.sort(tiny.random_documents(20), axis=1)  # Padding before the prompt.
  config = dataclasses.replace(model.config, same_length=True)
  expected, expected_memory = [], None
  for i in range(20):
    log_probs, expected_memory = reference.log_probs(
        params, config, tokens[:, i:i + 1], segment_ids[:, i:i + 1], expected_memory)
    expected.append(log_probs[:, 0])

  memory = lm.initial_memory(ROWS, window, projected=True)
  prefill, step = tiny.jit(lm.prefill), tiny.jit(lm.decode_step)
  for start in (0, LENGTH):
    now = np.s_[:, start:start + LENGTH]
    logits, memory = prefill(params, tokens[now], segment_ids[now], memory)
    last = start + LENGTH - 1
    _assert_close(jax.nn.log_softmax(logits), expected[last], segment_ids[:, last])
  cache = lm.start_decoding(params, memory)
  for i in range(2 * LENGTH, 20):
    logits, cache = step(params, tokens[:, i], cache, segment_ids[:, i])
    _assert_close(jax.nn.log_softmax(logits), expected[i], segment_ids[:, i])
