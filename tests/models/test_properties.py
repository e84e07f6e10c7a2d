"""What must hold of the model whatever its numbers: memory, documents, causality, scanning, precision, dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models.config import MoEConfig
from gpt4x.models.sums import weighted_mean
from gpt4x.objectives.next_token import NextToken
from tests.models import tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

_TOLERANCE = dict(rtol=0, atol=5e-5)
_MEMORY = 3 * LENGTH  # Four segments reach no further back.
_styles = functools.partial(pytest.mark.parametrize, "style")


def _in_segments(model, tokens, segment_ids, length=LENGTH):
  """Log-probabilities [B, S, V] of S tokens taken a segment at a time, and the memory after the last."""
  memory, parts = model.lm.initial_memory(ROWS), []
  for start in range(0, tokens.shape[1], length):
    now = np.s_[:, start:start + length]
    log_probs, memory = model.log_probs(model.params, tokens[now], memory, segment_ids[now])
    parts.append(np.asarray(log_probs))
  return np.concatenate(parts, axis=1), memory


@_styles(["paper", "modern", "same_length", "mixture"])
def test_one_long_segment_equals_four_short_ones(style):
  model = tiny.make(**STYLES[style], memory_length=_MEMORY)
  tokens, segment_ids = tiny.random_tokens(model.config, 4 * LENGTH), tiny.random_documents(4 * LENGTH)
  segment_ids = np.sort(np.maximum(segment_ids, 1), axis=1)  # No padding: what it attends to may differ.
  short, short_memory = _in_segments(model, tokens, segment_ids)
  long, long_memory = _in_segments(model, tokens, segment_ids, 4 * LENGTH)
  np.testing.assert_allclose(short, long, **_TOLERANCE)
  np.testing.assert_array_equal(short_memory.segment_ids, long_memory.segment_ids)
  np.testing.assert_allclose(short_memory.layers, long_memory.layers, **_TOLERANCE)


@_styles(["paper", "modern", "same_length", "mixture"])
def test_a_packed_row_equals_its_documents_apart(style):
  """In a long row and in segments with memory; in the memory left behind too."""
  model = tiny.make(**STYLES[style], memory_length=_MEMORY)
  sizes, total = (7, 2, 11), 4 * LENGTH
  tokens = tiny.random_tokens(model.config, total)
  # Apart: a row for each document, at the end of it, so that the memory keeps it.
  apart_tokens, apart_ids = np.zeros((ROWS, total), np.int32), np.zeros((ROWS, total), np.int32)
  for document, size in enumerate(sizes):
    apart_tokens[document, total - size:] = tokens[document, :size]
    apart_ids[document, total - size:] = 1
  apart, apart_memory = _in_segments(model, apart_tokens, apart_ids, total)

  # Packed: in three orders, one a row.
  orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
  join = lambda pieces: np.stack([np.concatenate([pieces(document) for document in order]) for order in orders])
  packed_tokens = join(lambda document: tokens[document, :sizes[document]])
  packed_ids = join(lambda document: np.full(sizes[document], document + 5, np.int32))
  expected = join(lambda document: apart[document, total - sizes[document]:])
  layers = np.asarray(apart_memory.layers)
  expected_memory = [join(lambda document: layer[document, _MEMORY - sizes[document]:]) for layer in layers]
  for length in (total, LENGTH):
    packed, memory = _in_segments(model, packed_tokens, packed_ids, length)
    np.testing.assert_allclose(packed, expected, **_TOLERANCE)
    np.testing.assert_allclose(memory.layers, np.stack(expected_memory)[:, :, total - _MEMORY:], **_TOLERANCE)


@_styles(["paper", "modern", "same_length"])
def test_a_token_reaches_only_the_rest_of_its_document(style):
  model = tiny.make(**STYLES[style], memory_length=_MEMORY)
  tokens = tiny.random_tokens(model.config, 4 * LENGTH)
  segment_ids = np.array([[1] * 3 + [2] * 9 + [3] * 8, [1] * 20, [7] * 11 + [4] * 9], np.int32)
  before, _ = _in_segments(model, tokens, segment_ids)
  for position in range(4 * LENGTH):
    changed = tokens.copy()
    changed[:, position] = (changed[:, position] + 1) % model.config.vocab_size
    after, _ = _in_segments(model, changed, segment_ids)
    reached = (segment_ids == segment_ids[:, [position]]) & (np.arange(4 * LENGTH) >= position)
    np.testing.assert_array_equal(after[~reached], before[~reached])
    moved = np.abs(after - before).max(axis=2)
    assert (moved[reached] > 0).all()


@_styles(["paper", "modern"])
def test_an_empty_memory_equals_none(style):
  model = tiny.make(**STYLES[style], memory_length=_MEMORY)
  tokens, segment_ids = tiny.random_tokens(model.config, LENGTH), np.ones((ROWS, LENGTH), np.int32)
  empty, none = (
      model.log_probs(model.params, tokens, model.lm.initial_memory(ROWS, length), segment_ids)[0]
      for length in (_MEMORY, 0))
  np.testing.assert_allclose(empty, none, **_TOLERANCE)


def test_no_gradient_flows_into_the_memory():
  model = tiny.make(memory_length=3)
  lm = model.lm
  tokens = tiny.random_tokens(model.config, 2 * LENGTH)

  def second_segment(params_before):
    _, memory = lm.log_probs(params_before, tokens[:, :LENGTH], lm.initial_memory(ROWS))
    return lm.log_probs(model.params, tokens[:, LENGTH:], memory)[0][..., 0].mean()

  value, gradients = tiny.jit(jax.value_and_grad(second_segment))(model.params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    np.testing.assert_array_equal(leaf, 0, err_msg=jax.tree_util.keystr(path))
  without, _ = model.log_probs(model.params, tokens[:, LENGTH:], lm.initial_memory(ROWS))
  assert abs(value - without[..., 0].mean()) > 1e-3  # The memory does matter.


@_styles(["paper", "adaptive"])
def test_scanned_layers_equal_layers_apart(style):
  scanned, apart = (tiny.make(**STYLES[style], memory_length=3, scan_layers=scan) for scan in (True, False))
  layers = scanned.params["layers"]
  params = {name: value for name, value in scanned.params.items() if name != "layers"}
  for i in range(scanned.config.num_layers):
    params[f"layers_{i}"] = jax.tree.map(lambda leaf: leaf[i], layers)
  assert jax.tree.structure(params) == jax.tree.structure(apart.params)
  tokens, memory = tiny.random_tokens(scanned.config, LENGTH), scanned.lm.initial_memory(ROWS)
  for _ in range(2):
    log_probs, new_memory = scanned.log_probs(scanned.params, tokens, memory)
    apart_log_probs, apart_memory = apart.log_probs(params, tokens, memory)
    np.testing.assert_allclose(log_probs, apart_log_probs, **_TOLERANCE)
    np.testing.assert_allclose(new_memory.layers, apart_memory.layers, **_TOLERANCE)
    memory = new_memory


@_styles(["paper", "modern"])
def test_bfloat16_stays_close(style):
  exact = tiny.make(**STYLES[style], memory_length=_MEMORY)
  rough = tiny.make(**STYLES[style], memory_length=_MEMORY, dtype="bfloat16")
  tokens, segment_ids = tiny.random_tokens(exact.config, 4 * LENGTH), np.ones((ROWS, 4 * LENGTH), np.int32)
  expected, _ = _in_segments(exact, tokens, segment_ids)
  log_probs, memory = _in_segments(rough, tokens, segment_ids)
  assert log_probs.dtype == np.float32 and memory.layers.dtype == jnp.bfloat16
  fresh = jax.eval_shape(rough.lm.init, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
  # bfloat16 keeps 8 bits: about 0.4% of log-probabilities down to some -10.
  deviation = np.abs(log_probs - expected)
  assert 1e-4 < deviation.mean() < 0.05 and deviation.max() < 0.5


@pytest.mark.parametrize("rates", [dict(dropout_rate=0.1), dict(attention_dropout_rate=0.1)])
def test_dropout_follows_its_key_and_has_no_great_bias(rates):
  plain, dropped = tiny.make(memory_length=3), tiny.make(memory_length=3, **rates)
  tokens, memory = tiny.random_tokens(plain.config, LENGTH), plain.lm.initial_memory(ROWS)
  logits = tiny.jit(lambda key: dropped.lm.logits(dropped.params, tokens, memory, dropout_rng=key)[0])
  keys = jax.random.split(jax.random.key(0, impl="rbg"), 200)  # Compiles faster than the default.
  samples = np.stack([logits(key) for key in keys])
  np.testing.assert_array_equal(samples[0], logits(keys[0]))
  assert np.abs(samples[0] - samples[1]).max() > 0.01
  bias = jax.nn.log_softmax(samples.mean(axis=0)) - plain.log_probs(plain.params, tokens, memory)[0]
  assert np.abs(bias).mean() < 0.2  # Norms and softmax are not linear, which keeps it from being nil.


def test_every_layer_drops_its_own_tenth():
  """Layers that only add ones: their inputs, read from the memory, then differ by the dropout of ones."""
  model = tiny.make(num_layers=3, norm_position="pre", memory_length=200, dropout_rate=0.1)
  ones_for_bias = lambda path, leaf: jnp.full_like(leaf, path[-1].key == "wo_bias")
  params = jax.tree_util.tree_map_with_path(ones_for_bias, model.params)
  tokens = tiny.random_tokens(model.config, 200)
  run = tiny.jit(lambda memory, key: model.lm.logits(params, tokens, memory, dropout_rng=key)[1])
  memory = run(model.lm.initial_memory(ROWS), jax.random.key(0, impl="rbg"))
  first, second = np.diff(np.asarray(memory.layers), axis=0)
  for added in (first, second):
    np.testing.assert_allclose(np.unique(added.round(4)), [0, 1 / 0.9], atol=1e-4)
    np.testing.assert_allclose(np.mean(added), 1, atol=0.02)
  assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("options", [{}, {"moe": MoEConfig(num_experts=3, mlp_dim=9)}], ids=["dense", "mixture"])
def test_layers_that_share_parameters(options, scan):
  """They are layers with copies of one another's, in what they return and in what their experts count."""
  sizes = dict(num_layers=4, memory_length=3, **options)
  shared = tiny.make(**sizes, share_layers=2, scan_layers=scan)
  apart = tiny.make(**sizes, scan_layers=False)
  distinct = [shared.params["layers"]["layers_0"], shared.params["layers"]["layers_0"]] if scan else [
      shared.params["layers_0"], shared.params["layers_1"]]
  if scan:
    distinct = [jax.tree.map(lambda leaf: leaf[i], tree) for i, tree in enumerate(distinct)]
  params = {name: value for name, value in shared.params.items() if not name.startswith("layers")}
  params |= {f"layers_{i}": distinct[i // 2] for i in range(4)}
  assert shared.config.num_params() == sum(leaf.size for leaf in jax.tree.leaves(shared.params))
  tokens = tiny.random_tokens(shared.config, 10)
  batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens,
           "decoder_segment_ids": tiny.random_documents(10), "decoder_loss_weights": np.ones(tokens.shape, np.float32)}
  results = [tiny.jit(functools.partial(NextToken(), model.lm))(
      values, {}, batch, model.lm.initial_memory(len(tokens), 3), None)
             for model, values in ((shared, shared.params), (apart, params))]
  (sums, memory), (expected, expected_memory) = results
  for coefficients in ({"loss": 1.0}, shared.lm.coefficients):
    np.testing.assert_allclose(weighted_mean(sums, coefficients), weighted_mean(expected, coefficients), rtol=1e-5)
  np.testing.assert_allclose(memory.layers, expected_memory.layers, atol=1e-5)
  load = lambda sums: sum(one.value.sum() for name, one in sums.items() if name.startswith("expert_imbalance"))
  assert load(sums) == load(expected)
