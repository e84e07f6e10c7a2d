"""Rows that go on by several tokens: pieces of prompts, and guesses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.inference.drafting import DraftModel
from gpt4x.inference.engine import BOS, Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.speculation import PromptLookup, Speculation
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.models import tiny

VOCAB, WINDOW, SEGMENT = 24, 7, 16
HOT = Sampling(2.0, top_k=9, frequency_penalty=0.5, repetition_penalty=1.3, bias=((3, 1.0),))


def made(**options):
  defaults = dict(vocab_size=VOCAB, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=16, memory_length=6,
                  tie_embeddings=False)
  model = LanguageModel(TransformerConfig(**defaults | options))
  engine = Engine(model, WINDOW, None, segment_length=SEGMENT, chunk_length=8, adjusts=True, alternatives=3)
  return engine, jax.tree.map(jnp.asarray, tiny.random_params(model))


@pytest.fixture(scope="module", name="plain")
def _plain():
  return made()


TEXT = np.random.default_rng(0).integers(2, VOCAB, 60).tolist()


@pytest.mark.parametrize("options", [
    {}, {"positions": "rotary", "norm_position": "pre", "num_kv_heads": 1}, {"scan_layers": False, "clamp_length": 4},
    {"empty_memory": "zeros"}], ids=["paper", "rotary", "unscanned", "zeros"])
def test_a_prompt_in_pieces_leaves_what_one_pass_does(options):
  engine, params = made(**options)
  model = engine.model
  text = jnp.array([[BOS, *TEXT]])
  expected = jax.jit(lambda text: model.logits(params, text, model.initial_memory(1, WINDOW), window=WINDOW)[0])(text)
  row, place = engine.begin(params), 0
  np.testing.assert_allclose(row.logits[0], expected[0, 0], atol=1e-4)
  for count in (1, 3, 16, 5, 35):  # Pieces of any length, padded and not, and several at once.
    row, place = engine.extend(params, row, TEXT[place:place + count]), place + count
    np.testing.assert_allclose(row.logits[0], expected[0, place], atol=1e-4)
  slots = engine.start(params, row)
  np.testing.assert_allclose(slots.logits[0], expected[0, place], atol=1e-4)
  _, cache = jax.jit(model.decode_step)(params, jnp.array([5]), slots.cache)
  again = engine.extend(params, row, [5])
  logits, _ = jax.jit(model.decode_step)(params, jnp.array([6]), cache)
  np.testing.assert_allclose(logits, engine.extend(params, again, [6]).logits, atol=1e-4)


def test_pieces_have_few_lengths(plain):
  engine, params = plain
  seen = [hidden.shape[1] for _, hidden, _ in engine.extensions(params, engine.begin(params), TEXT[:SEGMENT * 2 + 3])]
  assert seen == [16, 16, 16]


def alone(engine, params, prompt, count, guesses, sampling=HOT, seed=3, sample=5):
  """`count` tokens and log-probabilities of a row that is alone, how many steps they took, and the slots."""
  speculation, tokens, log_probs, steps = Speculation(engine), [], [], 0
  slots = engine.insert(params, engine.empty(params, 1), 0, engine.extend(params, engine.begin(params), prompt), seed,
                        sample, sampling, prompt, asked=True)
  while len(tokens) < count:
    chunk, slots = speculation.step(params, slots, guesses([*prompt, *tokens]))
    assert chunk.alternatives[0].shape == (1, chunk.tokens.shape[1], 3)
    tokens, log_probs, steps = tokens + chunk.tokens[0].tolist(), log_probs + chunk.log_probs[0].tolist(), steps + 1
  return tokens[:count], log_probs[:count], steps, slots


def in_slots(engine, params, prompt, count, sampling=HOT, seed=3, sample=5):
  slots = engine.insert(params, engine.empty(params, 3), 1, engine.extend(params, engine.begin(params), prompt), seed,
                        sample, sampling, prompt)
  tokens, log_probs = [], []
  while len(tokens) < count:
    chunk, slots = engine.step(params, slots)
    tokens, log_probs = tokens + chunk.tokens[1].tolist(), log_probs + chunk.log_probs[1].tolist()
  return tokens[:count], log_probs[:count]


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(), HOT], ids=["cold", "warm", "penalties"])
def test_guesses_change_nothing_but_the_number_of_steps(plain, sampling):
  engine, params = plain
  expected, log_probs = in_slots(engine, params, TEXT[:20], 50, sampling)

  def right(text):
    return expected[len(text) - 20:][:WINDOW]

  def half(text):
    return [token if number % 5 else token + 1 for number, token in enumerate(right(text))]

  draw = np.random.default_rng(1)
  for guesses, most in ((right, 8), (half, 50), (lambda text: [], 50), (lambda text: PromptLookup(1, 1)(text, 7), 50),
                        (lambda text: draw.integers(2, VOCAB, draw.integers(8)).tolist(), 50)):
    found, found_log_probs, steps, _ = alone(engine, params, TEXT[:20], 50, guesses, sampling)
    assert found == expected and steps <= most
    np.testing.assert_allclose(found_log_probs, log_probs, atol=1e-4)


def test_a_row_that_was_alone_goes_on_among_others(plain):
  engine, params = plain
  expected, _ = in_slots(engine, params, TEXT[:20], 40)
  tokens, _, _, slots = alone(engine, params, TEXT[:20], 12, lambda text: expected[len(text) - 20:][:3])
  drawn = expected[:int(slots.drawn[0])]
  assert drawn[:12] == tokens
  slots = engine.take(slots, [0, 0])
  while len(drawn) < 40:
    chunk, slots = engine.step(params, slots)
    drawn = drawn + chunk.tokens[0].tolist()
  assert drawn[:40] == expected


def test_what_stood_there_before_is_guessed():
  lookup = PromptLookup(longest=3, shortest=2)
  assert lookup([1, 2, 3, 4, 5, 9, 2, 3], 3) == [4, 5, 9]
  assert lookup([7, 2, 3, 4, 8, 2, 3, 5, 2, 3], 1) == [5]  # The last place.
  assert lookup([1, 2, 3, 8, 2, 3, 9, 1, 2, 3], 2) == [8, 2]  # The longer end counts more.
  assert lookup([1, 2, 3, 4], 3) == [] and lookup([5], 3) == [] and lookup([], 3) == []
  assert lookup([4, 4, 4], 5) == [4] * 5 and lookup([1, 2, 3, 1, 2, 3, 1], 4) == [2, 3, 1, 2]


def test_another_model_s_guesses_are_its_likeliest_tokens(plain):
  """Of a text that goes on, of one it has read, and of another."""
  engine, params = plain
  cold = Engine(engine.model, WINDOW, None, sampling=Sampling(0.0), segment_length=SEGMENT)
  drafts = DraftModel(cold, params)
  for text in (TEXT[:20], TEXT[:21], TEXT[:29], TEXT[:29], TEXT[5:15], [3]):
    assert drafts(text, 6) == in_slots(engine, params, text, 6, Sampling(0.0))[0]
  expected, _ = in_slots(engine, params, TEXT[:20], 40, Sampling(0.0))
  found, _, steps, _ = alone(engine, params, TEXT[:20], 40, lambda text: drafts(text, 7), Sampling(0.0))
  assert found == expected and steps == 6  # Seven at a time.


# Rows, each with sampling of its own.


def test_a_row_alone_and_among_others_at_every_place(plain):
  """Whatever its neighbours draw, when they came and where in the ring."""
  engine, params = plain
  expected, _ = in_slots(engine, params, TEXT[:9], 16)
  slots = engine.empty(params, 3)
  noise = engine.extend(params, engine.begin(params), TEXT[30:33])
  for before in range(WINDOW + 1):
    _, slots = engine.step(params, slots, 1)
    slots = engine.insert(params, slots, before % 3, noise, before, 0, Sampling(1.5), asked=bool(before % 2))
    row = (before + 1) % 3
    slots = engine.insert(params, slots, row, engine.extend(params, engine.begin(params), TEXT[:9]), 3, 5, HOT,
                          TEXT[:9])
    first, slots = engine.step(params, slots, 1)
    slots = engine.insert(params, slots, before % 3, noise, before, 0, Sampling(0.0))
    second, slots = engine.step(params, slots)
    third, slots = engine.step(params, slots, 7)
    found = np.concatenate([one.tokens[row] for one in (first, second, third)])
    assert found.tolist() == expected


def test_two_histories_with_the_same_last_window_differ(plain):
  """Memory reaches further than what is in view: layers above the first have seen what was before."""
  engine, params = plain
  one, other = (engine.extend(params, engine.begin(params), [token] * 9 + TEXT[:WINDOW]) for token in (3, 8))
  assert float(jnp.abs(one.logits - other.logits).max()) > 1e-3


def test_alternatives_are_the_likeliest_of_the_model(plain):
  engine, params = plain
  row = engine.extend(params, engine.begin(params), TEXT[:9])
  slots = engine.insert(params, engine.empty(params, 2), 1, row, sampling=HOT, prompt=TEXT[:9], asked=True)
  chunk, _ = engine.step(params, slots, 1)
  log_probs = np.asarray(jax.nn.log_softmax(row.logits))[0]
  order = np.argsort(-log_probs)[:3]
  np.testing.assert_array_equal(chunk.alternatives[0][1, 0], order)
  np.testing.assert_allclose(chunk.alternatives[1][1, 0], log_probs[order], rtol=1e-5)
  assert chunk.log_probs[1, 0] == pytest.approx(log_probs[chunk.tokens[1, 0]], abs=1e-5)
