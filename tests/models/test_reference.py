"""The reference itself: a case worked by hand, the paper's shift (appendix B), masks and distributions."""

import math

import numpy as np
import pytest

from gpt4x.models.config import TransformerConfig
from tests.models import reference


def _config(**changes):
  sizes = dict(vocab_size=2, num_layers=1, embed_dim=2, num_heads=1, mlp_dim=1, norm="rms", norm_position="pre",
               norm_epsilon=1e-30, mlp_bias=False, tie_embeddings=False)
  return TransformerConfig(**{**sizes, **changes})


def _two_token_params():
  """Attention by position alone, values 1 for token 0 and -1 for token 1 on the first axis, no MLP."""
  layer = {
      "attention": {
          "query": np.zeros((2, 1, 2)),
          "key": np.zeros((2, 1, 2)),
          "value": np.array([[[1.0, 0.0]], [[-1.0, 0.0]]]),
          "out": np.eye(2)[None],
          "relative_key": np.eye(2)[:, None],  # r_d = R(d) = [sin d, cos d]
      },
      "attention_norm": {"scale": np.ones(2)},
      "mlp": {"wi": np.zeros((2, 1)), "wo": np.zeros((1, 2))},
      "mlp_norm": {"scale": np.ones(2)},
  }
  return {"content_bias": np.zeros((1, 2)), "position_bias": np.array([[0.5, 2.0]]), "layers_0": layer,
          "final_norm": {"scale": np.ones(2)}, "vocabulary": {"table": np.eye(2), "output_kernel": np.eye(2)}}


def _normed_log_softmax(x, y):
  rms = math.sqrt((x * x + y * y) / 2)
  total = math.exp(x / rms) + math.exp(y / rms)
  return [x / rms - math.log(total), y / rms - math.log(total)]


def test_two_tokens_by_hand():
  # Token 0 embeds as [sqrt 2, 0] and token 1 as [0, sqrt 2]; RMS-normed, their lengths stay sqrt 2.
  root = math.sqrt(2)
  score = lambda distance: (0.5 * math.sin(distance) + 2 * math.cos(distance)) / root
  weight = math.exp(score(1)) / (math.exp(score(0)) + math.exp(score(1)))  # Of the first token, seen from the second.
  first = (root + root, 0.0)  # The first token sees itself only.
  second = (weight * root - (1 - weight) * root, root)
  expected = [_normed_log_softmax(*first), _normed_log_softmax(*second)]
  actual, (hidden, ids) = reference.log_probs(_two_token_params(), _config(memory_length=1), [[0, 1]])
  np.testing.assert_allclose(actual, [expected], rtol=1e-12)
  np.testing.assert_array_equal(hidden, [[[[0, root]]]])  # The layer's input at the last position.
  np.testing.assert_array_equal(ids, [[1]])

  # The same two tokens, one a segment: the first now comes from memory.
  first_only, memory = reference.log_probs(_two_token_params(), _config(memory_length=1), [[0]])
  second_only, _ = reference.log_probs(_two_token_params(), _config(memory_length=1), [[1]], memory=memory)
  np.testing.assert_allclose(np.concatenate([first_only, second_only], axis=1), [expected], rtol=1e-12)


def test_another_document_is_not_seen():
  together, _ = reference.log_probs(_two_token_params(), _config(), [[0, 1]], segment_ids=np.array([[1, 2]]))
  alone, _ = reference.log_probs(_two_token_params(), _config(), [[1]])
  np.testing.assert_allclose(together[:, 1:], alone, rtol=1e-12)


def test_padding_attends_to_nothing():
  padded, _ = reference.log_probs(_two_token_params(), _config(), [[1]], segment_ids=np.array([[0]]))
  np.testing.assert_allclose(padded, [[_normed_log_softmax(0.0, math.sqrt(2))]], rtol=1e-12)  # The residual alone.


def test_a_prefix_looks_both_ways():
  params, config = _two_token_params(), _config()
  params["position_bias"][:] = 0  # Nothing but content then tells the two tokens apart.
  causal, _ = reference.log_probs(params, config, [[0, 1]])
  both, _ = reference.log_probs(params, config, [[0, 1]], causal_attention=np.array([[1, 1]]))
  np.testing.assert_allclose(both[:, 1], causal[:, 1], rtol=1e-12)
  np.testing.assert_allclose(both[0, 0], _normed_log_softmax(math.sqrt(2), 0.0), rtol=1e-12)  # The values cancel.


@pytest.mark.parametrize("memory_length", [0, 3, 9])
def test_scores_equal_the_paper_s_shift(memory_length):
  rng = np.random.default_rng(0)
  config = _config(embed_dim=8, num_heads=2)
  length, total = 5, memory_length + 5
  layer = {name: rng.normal(size=(8, 2, 4)) for name in ("query", "key", "relative_key")}
  biases = {name: rng.normal(size=(2, 4)) for name in ("content_bias", "position_bias")}
  keys = rng.normal(size=(1, total, 8))
  queries = keys[:, memory_length:]
  scores = reference.attention_scores(
      layer, biases, config, queries, keys, np.arange(memory_length, total), np.arange(total))

  # Appendix B: R of distances T-1 .. 0, one product for all queries, then row i shifted left by L-1-i.
  r = reference.sinusoids(np.arange(total)[::-1], 8) @ layer["relative_key"].reshape(8, 8)
  q = np.einsum("bld,dhk->blhk", queries, layer["query"])
  k = np.einsum("btd,dhk->bthk", keys, layer["key"])
  content = np.einsum("blhk,bthk->bhlt", q + biases["content_bias"], k)
  unshifted = np.einsum("blhk,thk->bhlt", q + biases["position_bias"], r.reshape(total, 2, 4))
  padded = np.concatenate([np.zeros((1, 2, length, 1)), unshifted], axis=-1)
  shifted = padded.reshape(1, 2, total + 1, length)[:, :, 1:].reshape(unshifted.shape)
  causal = np.tril(np.ones((length, total), bool), memory_length)
  np.testing.assert_allclose(scores[..., causal], ((content + shifted) / 2)[..., causal], rtol=1e-10)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_scores_depend_on_distance_alone(positions):
  rng = np.random.default_rng(0)
  config = _config(embed_dim=8, num_heads=2, positions=positions)
  layer = {name: rng.normal(size=(8, 2, 4)) for name in ("query", "key", "relative_key")}
  biases = {name: rng.normal(size=(2, 4)) for name in ("content_bias", "position_bias")}
  x = rng.normal(size=(1, 5, 8))
  near, far = (
      reference.attention_scores(layer, biases, config, x, x, start + np.arange(5), start + np.arange(5))
      for start in (0, 100))
  np.testing.assert_allclose(near, far, rtol=1e-9)


def test_masks():
  query_position, key_position = np.arange(3, 6), np.arange(6)
  query_ids, key_ids = np.array([[2, 2, 0]]), np.array([[0, 1, 2, 2, 2, 0]])
  see = lambda config, *prefix: reference.attention_mask(
      config, query_position, key_position, query_ids, key_ids, *prefix)[0].astype(int).tolist()
  assert see(_config()) == [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0] * 6]
  assert see(_config(), np.array([[1, 1, 1]])) == [[0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0] * 6]
  key_ids, query_ids = np.ones_like(key_ids), np.ones_like(query_ids)
  assert see(_config(same_length=True, memory_length=3)) == [
      [0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("tie_projections", [False, True])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_adaptive_softmax_is_a_distribution(tie_embeddings, tie_projections):
  rng = np.random.default_rng(0)
  config = _config(vocab_size=9, embed_dim=8, adaptive_cutoffs=(3, 5), adaptive_divisor=2, output_bias=True,
                   tie_embeddings=tie_embeddings, tie_projections=tie_projections)
  widths, sizes = (8, 4, 2), (3, 2, 4)
  vocabulary = {"cluster_kernel": rng.normal(size=(2, 8)), "cluster_bias": rng.normal(size=2)}
  for i, (size, width) in enumerate(zip(sizes, widths)):
    vocabulary |= {f"table_{i}": rng.normal(size=(size, width)), f"projection_{i}": rng.normal(size=(width, 8)),
                   f"output_kernel_{i}": rng.normal(size=(size, width)), f"output_bias_{i}": rng.normal(size=size),
                   f"output_projection_{i}": rng.normal(size=(8, width))}
  probabilities = np.exp(reference.output_log_probs(vocabulary, config, rng.normal(size=(2, 3, 8))))
  np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-12)
  embedded = reference.embed(vocabulary, config, np.array([[4, 8]]))
  np.testing.assert_allclose(embedded[0, 1], vocabulary["table_2"][3] @ vocabulary["projection_2"] * math.sqrt(8))
