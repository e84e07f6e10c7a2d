import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.inference.engine import BOS, Engine, Piece
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

VOCAB, WINDOW, EOS = 24, 7, 1
GREEDY = Sampling(temperature=0.0)


def make_model(**options):
  config = TransformerConfig(vocab_size=VOCAB, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=16, memory_length=6,
                             tie_embeddings=False,  # Tied, greedy text soon repeats one token.
                             **options)
  model = LanguageModel(config)
  return model, jax.tree.map(jnp.asarray, tiny.random_params(model))


def make_engine(model, **options):
  defaults = {"eos_id": -1, "sampling": GREEDY, "segment_length": 4, "chunk_length": 8}
  return Engine(model, WINDOW, **defaults | options)


def decode(engine, params, prompts, max_tokens, **options):
  return np.concatenate([piece.tokens for piece in engine(params, prompts, max_tokens, **options)], 1)


def reference(model, params, prompts, num_tokens, prefix=False):
  """Greedy decoding without a cache: the whole text anew for every token, each position seeing WINDOW positions."""
  lengths = np.array([1 + len(prompt) for prompt in prompts])
  rows, total = np.arange(len(prompts)), lengths.max() + num_tokens
  tokens = np.zeros((len(prompts), total), np.int32)
  for row, prompt in enumerate(prompts):
    tokens[row, 1:len(prompt) + 1] = prompt
  marks = (np.arange(total) < lengths[:, None]).astype(np.int32) if prefix else None
  forward = jax.jit(lambda tokens: model.logits(
      params, tokens, model.initial_memory(len(prompts), WINDOW), prefix=marks, window=WINDOW)[0])
  for position in range(num_tokens):
    logits = np.array(forward(tokens))[rows, lengths + position - 1]
    logits[:, BOS] = -np.inf
    tokens[rows, lengths + position] = logits.argmax(-1)
  return [row[length:length + num_tokens] for row, length in zip(tokens, lengths)]


options = pytest.mark.parametrize("options", [
    {}, {"positions": "rotary", "norm_position": "pre"},
    {"num_kv_heads": 2, "untie_biases": True, "scan_layers": False},
    {"clamp_length": 4, "adaptive_cutoffs": (8,), "adaptive_divisor": 2},
    {"clamp_length": 9, "empty_memory": "zeros"},
], ids=["paper", "rotary", "grouped", "adaptive", "zeros"])


@options
def test_logits_equal_those_of_one_forward_pass_far_beyond_the_window(options):
  model, params = make_model(**options)
  text = np.random.default_rng(0).integers(2, VOCAB, (3, 5 * WINDOW), dtype=np.int32)
  text[:, 0] = BOS
  expected = jax.jit(lambda text: model.logits(params, text, model.initial_memory(3, WINDOW), window=WINDOW)[0])(text)
  engine = make_engine(model)
  slots = engine.start(params, engine.prefill(params, text[:, 1:10]))
  logits, cache = slots.logits, slots.cache
  step = jax.jit(model.decode_step)
  for position in range(9, 5 * WINDOW):
    np.testing.assert_allclose(logits, expected[:, position], atol=1e-4)
    if position + 1 < 5 * WINDOW:
      logits, cache = step(params, text[:, position + 1], cache)


@pytest.mark.parametrize("length, pieces", [(3, [16]), (47, [48]), (48, [32, 32]), (99, [48, 48, 48])])
def test_a_prompt_is_run_in_few_pieces_of_one_length(monkeypatch, length, pieces):
  model, params = make_model()
  prompts = np.random.default_rng(0).integers(2, VOCAB, (2, length))
  expected = make_engine(model).prefill(params, prompts).logits
  engine, lengths = make_engine(model, segment_length=48), []
  run = engine._prefill
  monkeypatch.setattr(engine, "_prefill", lambda params, tokens, *rest: (
      lengths.append(tokens.shape[1]), run(params, tokens, *rest))[1])
  logits = engine.prefill(params, prompts).logits
  assert lengths == pieces
  np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("options", [
    {"positions": "rotary", "norm_position": "pre"},
    # Zeros that rows of unequal length see at once, in the place of their padding.
    {"empty_memory": "zeros", "untie_biases": True, "activation": "swiglu", "clamp_length": 5},
], ids=["rotary", "zeros"])
def test_greedy_text_equals_that_of_the_uncached_forward_pass(options):
  model, params = make_model(**options)
  prompts = [[5, 9, 3, 7, 2, 11, 13, 4, 6, 8], [3], []]
  tokens = decode(make_engine(model), params, prompts, 30)
  assert all(len(np.unique(row[WINDOW:])) > 3 for row in tokens)
  for row, expected in zip(tokens, reference(model, params, prompts, 30)):
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("options", [
    {"scan_layers": False}, {"num_kv_heads": 1, "positions": "rotary", "norm_position": "pre"},
], ids=["paper", "rotary"])
def test_a_row_alone(options):
  """A ring has no axis for one row, nor for one head of keys."""
  model, params = make_model(**options)
  tokens, = decode(make_engine(model), params, [[5, 9, 3]], 20)
  expected, = reference(model, params, [[5, 9, 3]], 20)
  np.testing.assert_array_equal(tokens, expected)


def test_a_prefix_seen_in_both_directions():
  model, params = make_model()
  prompts = [[5, 9, 3, 7], [3, 8]]
  tokens = decode(make_engine(model), params, prompts, 8, bidirectional=True)
  for row, expected in zip(tokens, reference(model, params, prompts, 8, prefix=True)):
    np.testing.assert_array_equal(row, expected)
  assert (tokens != decode(make_engine(model), params, prompts, 8)).any()


def test_a_row_ends_at_eos_and_the_others_go_on():
  model, params = make_model()
  prompts = [[5, 9], [3]]
  free = decode(make_engine(model), params, prompts, 24)
  eos = int(free[0, 5])
  ended = decode(make_engine(model, eos_id=eos), params, prompts, 24)
  first = free[0].tolist().index(eos)
  np.testing.assert_array_equal(ended[0, :first + 1], free[0, :first + 1])
  assert (ended[0, first:] == eos).all()
  until = free[1].tolist().index(eos) if eos in free[1] else 24
  np.testing.assert_array_equal(ended[1, :until], free[1, :until])


def test_ids_without_a_meaning_are_never_drawn():
  model, params = make_model()
  tokens = decode(make_engine(model, num_ids=6, sampling=Sampling(temperature=5.0)), params, [[2]] * 4, 32)
  assert set(np.unique(tokens)) == {1, 2, 3, 4, 5}


def test_id_0_is_drawn_and_no_id_ends_a_row_where_the_vocabulary_says_so():
  model, params = make_model()
  engine = make_engine(model, num_ids=4, sampling=Sampling(temperature=5.0), eos_id=None, first_id=0)
  tokens = decode(engine, params, [[2]] * 4, 32)
  assert tokens.shape == (4, 32) and set(np.unique(tokens)) == {0, 1, 2, 3}


def test_sampling_depends_on_the_seed_alone():
  model, params = make_model()
  draw = lambda seed: decode(make_engine(model, sampling=Sampling()), params, [[2, 3]], 16, seed=seed)
  np.testing.assert_array_equal(draw(1), draw(1))
  assert (draw(1) != draw(2)).any()


def test_a_step_costs_the_same_wherever_it_is():
  model, params = make_model()
  engine = make_engine(model)
  cache = engine.start(params, engine.prefill(params, [[2, 3]])).cache
  shapes = jax.tree.map(jnp.shape, cache)
  step = jax.jit(model.decode_step)
  for _ in range(3 * WINDOW):
    _, cache = step(params, jnp.array([4]), cache)
  assert jax.tree.map(jnp.shape, cache) == shapes
  assert step._cache_size() == 1  # Compiled once.
