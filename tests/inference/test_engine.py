import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.inference.engine import BOS, Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from tests.models import tiny

VOCAB, WINDOW, EOS = 24, 7, 1
GREEDY = Sampling(temperature=0.0)


def make_model(**options):
  defaults = dict(vocab_size=VOCAB, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=16, memory_length=6,
                  tie_embeddings=False)  # Tied, greedy text soon repeats one token.
  model = LanguageModel(TransformerConfig(**defaults | options))
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


def test_log_probs_come_with_the_tokens():
  """Those of the model for each token that is drawn, whatever the temperature, and 0 behind a row's end."""
  model, params = make_model()
  prompt = [5, 9, 3]
  engine = make_engine(model, sampling=Sampling(temperature=2.0, top_k=5))
  tokens, log_probs = (np.concatenate(parts, 1)[0] for parts in zip(*engine(params, [prompt], 16)))
  text = np.array([[BOS, *prompt, *tokens]])
  logits, _ = model.logits(params, text[:, :-1], model.initial_memory(1, WINDOW), window=WINDOW)
  expected = np.asarray(jax.nn.log_softmax(logits))[0, np.arange(len(prompt), text.shape[1] - 1), tokens]
  np.testing.assert_allclose(log_probs, expected, atol=1e-4)
  ending = make_engine(model, sampling=Sampling(temperature=2.0, top_k=5), eos_id=int(tokens[3]))
  ended = np.concatenate([piece.log_probs for piece in ending(params, [prompt], 16)], 1)[0]
  last = tokens.tolist().index(tokens[3])
  np.testing.assert_allclose(ended[:last + 1], log_probs[:last + 1], atol=1e-5)
  assert not ended[last + 1:].any()


@pytest.mark.parametrize("options", [
    {}, {"positions": "rotary", "norm_position": "pre", "num_kv_heads": 1},
    {"num_kv_heads": 2, "untie_biases": True, "scan_layers": False},
    {"empty_memory": "zeros", "clamp_length": 9},
    {"num_layers": 4, "share_layers": 2},
], ids=["paper", "rotary", "apart", "zeros", "shared"])
def test_a_prompt_inserted_between_steps_is_decoded_as_if_alone(options):
  """Wherever the ring has come to, before it is full, at its end and turns later; and its neighbours do not notice."""
  model, params = make_model(**options)
  engine = make_engine(model, chunk_length=1)
  others = [[5, 9], [3, 7, 4, 11, 2, 8, 6, 10, 12]]
  alone = decode(engine, params, others, 24)
  for steps in (0, 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3):
    newcomer = [6, 2, 13][:1 + steps % 3]
    expected = decode(engine, params, [newcomer], 5)[0]
    slots = engine.start(params, engine.prefill(params, [others[0], [1], others[1]]))
    pieces = []
    for step in range(steps + 5):
      if step == steps:
        slots = engine.insert(params, slots, 1, engine.prefill(params, [newcomer]))
      piece, slots = engine.step(params, slots)
      pieces.append(piece.tokens)
    tokens = np.concatenate(pieces, 1)
    np.testing.assert_array_equal(tokens[1, steps:], expected, err_msg=f"after {steps} steps")
    np.testing.assert_array_equal(tokens[[0, 2]], alone[:, :steps + 5])


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_draws_depend_on_the_prompt_the_seed_and_the_sample_alone(generator):
  """Not on the neighbours, their number, the order, the length of a chunk, when a row came, or JAX's own generator."""
  model, params = make_model()
  prompts = [[5, 9, 3], [7], [5, 9, 3], [2, 11, 6, 4, 8]]
  engine = make_engine(model, sampling=Sampling())
  with jax.default_prng_impl(generator):
    together = decode(engine, params, prompts, 16, seed=3, samples=[0, 0, 1, 4])
  for row, (prompt, sample) in enumerate(zip(prompts, [0, 0, 1, 4])):
    np.testing.assert_array_equal(decode(engine, params, [prompt], 16, seed=3, samples=[sample])[0], together[row])
  backwards = decode(make_engine(model, sampling=Sampling(), chunk_length=5), params, prompts[::-1], 16, seed=3,
                     samples=[4, 1, 0, 0])
  np.testing.assert_array_equal(backwards[::-1], together)
  slots = engine.start(params, engine.prefill(params, prompts[:3]), seed=3, samples=[0, 0, 1])
  _, slots = engine.step(params, slots)
  slots = engine.insert(params, slots, 0, engine.prefill(params, [prompts[3]]), seed=3, sample=4)
  piece, _ = engine.step(params, slots)
  np.testing.assert_array_equal(piece.tokens, [together[3, :8], together[1, 8:], together[2, 8:]])
  assert (together[0] != together[2]).any(), "another sample"
  assert (decode(engine, params, prompts[:1], 16, seed=4)[0] != together[0]).any(), "another seed"
  default = decode(engine, params, [prompts[0]] * 2, 16, seed=3)
  np.testing.assert_array_equal(default, together[[0, 2]])


def test_an_only_row_is_replaced():
  model, params = make_model(scan_layers=False)
  engine = make_engine(model, chunk_length=3)
  slots = engine.start(params, engine.prefill(params, [[5, 9, 3]]))
  _, slots = engine.step(params, slots)
  slots = engine.insert(params, slots, 0, engine.prefill(params, [[7]]))
  piece, _ = engine.step(params, slots)
  np.testing.assert_array_equal(piece.tokens, decode(engine, params, [[7]], 3))


def test_a_cache_takes_one_row_of_its_own_window():
  model, params = make_model()
  engine = make_engine(model)
  slots = engine.start(params, engine.prefill(params, [[5, 9], [3]]))
  with pytest.raises(ValueError, match="a row of window 7 is wanted"):
    slots.cache.insert(0, slots.cache)


@pytest.mark.parametrize("mesh, rows", [({"data": 4, "tensor": 2}, 4), ({"data": 2, "fsdp": 2, "tensor": 2}, 3)],
                         ids=["rows split", "rows whole"])
def test_decoding_on_a_mesh(mesh, rows):
  """Parameters where training has them; tokens and log-probabilities are one device's, and so is a row inserted."""
  model, params = make_model(positions="rotary")
  partitioner = Partitioner(**mesh)
  placed = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), params,
                        partitioner.place(*model.declared))
  prompts = [[5, 9, 3], [7], [2, 11, 6, 4, 8], [10, 12]][:rows]
  one, many = make_engine(model), make_engine(model, partitioner=partitioner)
  for here, there in zip(one(params, prompts, 16), many(placed, prompts, 16), strict=True):
    np.testing.assert_array_equal(here.tokens, there.tokens)
    np.testing.assert_allclose(here.log_probs, there.log_probs, atol=1e-4)
  found = []
  for engine, weights in ((one, params), (many, placed)):
    slots = engine.start(weights, engine.prefill(weights, prompts))
    _, slots = engine.step(weights, slots)
    slots = engine.insert(weights, slots, 1, engine.prefill(weights, [[13, 2]]))
    found.append(engine.step(weights, slots)[0].tokens)
  np.testing.assert_array_equal(*found)
