"""Decoding under a grammar and with guidance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.inference.engine import BOS, Engine
from gpt4x.inference.sampling import Sampling, Settings
from gpt4x.media.grammar import Grammar
from gpt4x.media.layout import Span
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from tests.media.streams import assert_same, EOS, LAYOUTS, Parser
from tests.models import tiny

LAYOUT = LAYOUTS["all"]
WINDOW, VOCAB = 9, LAYOUT.size + 4  # The model has room for ids that the vocabulary has not.
ANY = Grammar(LAYOUT, frozenset(LAYOUT.media))
HOT = Sampling(temperature=1e10)  # Every id is as likely.
IMAGE = LAYOUT.flatten(Span("image", np.arange(3).reshape(1, 3, 1))).tolist()


@functools.cache
def model_and_params():
  model = LanguageModel(TransformerConfig(vocab_size=VOCAB, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8,
                                          memory_length=6, tie_embeddings=False))
  return model, jax.tree.map(jnp.asarray, tiny.random_params(model))


@functools.cache
def make_engine(**options):
  defaults = {"eos_id": None, "num_ids": LAYOUT.size, "sampling": Sampling(), "segment_length": 16, "chunk_length": 16,
              "first_id": 0, "grammar": ANY}
  return Engine(model_and_params()[0], WINDOW, **defaults | options)


def decode(engine, prompts, max_tokens, **options):
  """Tokens and log-probabilities, [B, max_tokens]."""
  pieces = list(engine(model_and_params()[1], prompts, max_tokens, **options))
  return tuple(np.concatenate(parts, 1) for parts in zip(*pieces))


def check_parses(ids):
  parser = Parser(LAYOUT, ids)
  parser.run()
  found = LAYOUT.parse(ids)
  assert_same(found, parser.parts + [parser.open] * (parser.open is not None))
  return [part for part in found if isinstance(part, Span)]


@pytest.mark.parametrize("sampling", [HOT, Sampling(temperature=0.0), Sampling(5.0, top_k=4, top_p=0.5)], ids=str)
def test_whatever_is_drawn_parses(sampling):
  """Text, images, sounds and videos with sound, whatever the filters leave, from prompts that end anywhere."""
  video = [LAYOUT.special("VIDEO"), *[LAYOUT.ranges["size"][0]] * 2]
  prompts = [[], [3, 5], IMAGE, IMAGE[:4], [LAYOUT.special("AUDIO")], video, video, [LAYOUT.special("IMAGE")],
             [4, *IMAGE, 7, 8], video[:1]]
  tokens, log_probs = decode(make_engine(sampling=sampling), prompts, 96)
  spans = [span for prompt, row in zip(prompts, tokens) for span in check_parses([*prompt, *row])]
  assert np.isfinite(log_probs).all()
  if sampling == HOT:
    assert {span.medium for span in spans if span.complete} == {"image", "audio", "video"}
    assert any(span.sound for span in spans)
    drawn = set(tokens.ravel().tolist())
    assert all({ids[0], ids[-1]} <= drawn for name, ids in LAYOUT.ranges.items() if name != "special")


def test_padding_and_the_end_of_a_document():
  """The first is drawn nowhere, the second in text; a row ends there, and its neighbours go on."""
  tokens, _ = decode(make_engine(sampling=HOT, eos_id=EOS, first_id=BOS + 1), [[]] * 12, 64)
  assert not (tokens == BOS).any() and (tokens[:, -1] == EOS).any() and (tokens[:, -1] != EOS).any()
  for row in tokens.tolist():
    end = row.index(EOS) if EOS in row else len(row)
    check_parses(row[:end])
    assert set(row[end:]) <= {EOS}


@pytest.mark.parametrize("medium, shape", [("image", (2, 3, 1)), ("audio", (5, 2)), ("video", (2, 2, 3, 2))])
def test_one_medium_of_a_size(medium, shape):
  grammar = Grammar(LAYOUT, frozenset({medium}), only=medium, size=(2, 3), cells=shape[0])
  engine = make_engine(sampling=HOT, grammar=grammar, eos_id=EOS)
  tokens, _ = decode(engine, [[], [4, 5], IMAGE], 160)
  for row in tokens:
    span, = LAYOUT.parse(row[row != EOS])
    assert span.complete and span.codes.shape == shape
    assert row[len(LAYOUT.flatten(span)):].tolist() == [EOS] * (len(row) - len(LAYOUT.flatten(span)))


# Guidance.

CASES = [[5, 9, 3], [7], [4, *IMAGE]]
NULLS = [[3], [], [2]]


class Unguided(Engine):
  """Draws by the logits of the model as they are."""

  def _guided(self, logits):
    return logits


def by_lowest_bits(settings, logits, keys, legal):
  """Draws [B] that differ where any logit does, be it in its last bit."""
  bits = jax.lax.bitcast_convert_type(jnp.where(jnp.isfinite(logits), logits, 0), jnp.int32)
  return jnp.sum(bits, -1) % LAYOUT.size


def test_guidance_of_one_is_no_guidance(monkeypatch):
  """Bit for bit, whether there are null prompts or none; whereas a little guidance is noticed."""
  monkeypatch.setattr(Settings, "draw", by_lowest_bits)
  options = {"sampling": Sampling(0.123), "grammar": None}  # Of no other engine, which would keep how it draws.
  plain = decode(Unguided(model_and_params()[0], WINDOW, eos_id=None, num_ids=LAYOUT.size, segment_length=16,
                          chunk_length=16, first_id=0, **options), CASES, 32)
  for nulls in (None, NULLS):
    for found, expected in zip(decode(make_engine(guidance=1.0, **options), CASES, 32, null_prompts=nulls), plain):
      np.testing.assert_array_equal(found, expected)
  tokens, _ = decode(make_engine(guidance=1 + 1e-6, **options), CASES, 32, null_prompts=NULLS)
  assert (tokens != plain[0]).any(1).all()


@functools.cache
def forward():
  model, params = model_and_params()
  return jax.jit(lambda tokens: model.logits(params, tokens, model.initial_memory(1, WINDOW), window=WINDOW)[0][0])


def logits_behind(ids):
  """Those of the whole text at once, padded on the right, where nothing sees it."""
  row = np.zeros((1, 64), np.int32)
  row[0, 1:len(ids) + 1] = ids
  return np.asarray(forward()(row))[len(ids)]


@pytest.mark.parametrize("guidance, grammar", [(0.0, None), (3.0, ANY)], ids=["free", "grammar"])
def test_guided_logits_are_those_of_two_runs(guidance, grammar):
  """Of the prompt and of the null prompt, each with all that was drawn, far beyond the window."""
  engine = make_engine(sampling=Sampling(temperature=0.0), guidance=guidance, grammar=grammar, chunk_length=8)
  tokens, log_probs = decode(engine, CASES, 40, null_prompts=NULLS)
  for prompt, null, row, told in zip(CASES, NULLS, tokens, log_probs):
    state = ANY.of_prompt(prompt)
    for n, token in enumerate(row.tolist()):
      own, without = (logits_behind([*start, *row[:n]]) for start in (prompt, null))
      mixed = without + guidance * (own - without)
      mixed[LAYOUT.size:] = -np.inf
      if grammar:
        mixed[:LAYOUT.size][~np.asarray(ANY.allowed(state))] = -np.inf
        state = ANY.after(state, token)
      assert mixed[token] == pytest.approx(mixed.max(), abs=1e-3)
      assert told[n] == pytest.approx(float(jax.nn.log_softmax(own)[token]), abs=1e-3), "of the model, unguided"


def test_a_mask_comes_behind_guidance():
  """However strong that is, nothing illegal is drawn, and no number is none."""
  engine = make_engine(sampling=Sampling(top_p=0.1), guidance=50.0)
  tokens, log_probs = decode(engine, CASES, 64, null_prompts=NULLS)
  assert np.isfinite(log_probs).all()
  for prompt, row in zip(CASES, tokens):
    check_parses([*prompt, *row])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_row_does_not_depend_on_its_neighbours(guidance):
  """Nor on when it came; with a state of the grammar and a null row of its own."""
  params = model_and_params()[1]
  engine = make_engine(guidance=guidance, chunk_length=8)
  nulls = lambda *rows: {"null_prompts": [NULLS[row] for row in rows]} if guidance != 1 else {}
  together, _ = decode(engine, CASES[:2], 32, seed=3, **nulls(0, 1))
  alone = [decode(engine, [CASES[row]], 32, seed=3, samples=[row], **nulls(row))[0][0] for row in range(3)]
  np.testing.assert_array_equal(alone[:2], together)
  backwards, _ = decode(engine, [CASES[2], CASES[0]], 32, seed=3, samples=[2, 0], **nulls(2, 0))
  np.testing.assert_array_equal(backwards, [alone[2], alone[0]])
  for steps in (1, 2):
    slots = engine.start(params, engine.prefill(params, CASES[:2], **nulls(0, 1)), seed=3)
    pieces = []
    for step in range(4):
      if step == steps:
        slots = engine.insert(params, slots, 0, engine.prefill(params, CASES[2:], **nulls(2)), seed=3, sample=2)
      piece, slots = engine.step(params, slots)
      pieces.append(piece.tokens)
    tokens = np.concatenate(pieces, 1)
    np.testing.assert_array_equal(tokens[0, :8 * steps], alone[0][:8 * steps])
    np.testing.assert_array_equal(tokens[0, 8 * steps:], alone[2][:32 - 8 * steps])
    np.testing.assert_array_equal(tokens[1], alone[1])
  slots = engine.start(params, engine.prefill(params, CASES[:1], **nulls(0)), seed=3)
  _, slots = engine.step(params, slots)
  slots = engine.insert(params, slots, 0, engine.prefill(params, CASES[1:2], **nulls(1)), seed=3, sample=1)
  np.testing.assert_array_equal(engine.step(params, slots)[0].tokens[0], alone[1][:8], "an only row is replaced")


def test_on_a_mesh():
  model, params = model_and_params()
  partitioner = Partitioner(data=2, tensor=2, num_devices=4)
  placed = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), params,
                        partitioner.place(*model.declared))
  greedy = {"sampling": Sampling(temperature=0.0), "guidance": 2.0, "chunk_length": 8}
  one, many = make_engine(**greedy), make_engine(**greedy, partitioner=partitioner)
  for here, there in zip(one(params, CASES[:2], 16, null_prompts=NULLS[:2]),
                         many(placed, CASES[:2], 16, null_prompts=NULLS[:2]), strict=True):
    np.testing.assert_array_equal(here.tokens, there.tokens)
    np.testing.assert_allclose(here.log_probs, there.log_probs, atol=1e-4)


def test_what_is_refused():
  model, params = model_and_params()
  for guidance in (-1.0, float("inf"), float("nan")):
    with pytest.raises(UserError, match="guidance = .* must be a number of at least 0"):
      make_engine(guidance=guidance)
  small = LanguageModel(TransformerConfig(vocab_size=30, num_layers=1, embed_dim=8, num_heads=2))
  with pytest.raises(UserError, match=f"the vocabulary has {LAYOUT.size} ids, and the model 30: set TransformerConfig"):
    Engine(small, WINDOW, eos_id=1, grammar=ANY)
  for nulls in (None, NULLS[:1]):
    with pytest.raises(ValueError, match="a null prompt for each"):
      make_engine(guidance=2.0).prefill(params, CASES, null_prompts=nulls)
  with pytest.raises(UserError, match="token 1 of the prompt is 2, where the stream goes on with a height"):
    make_engine().prefill(params, [[5], [LAYOUT.special("IMAGE"), 2]])
