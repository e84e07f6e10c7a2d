"""Embeddings of codes' places: the places, against spans that are written out; segments and decoding alike."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.media.layout import Span
from gpt4x.models.memory import Cache
from gpt4x.models.places import CodePlaces
from tests.media.streams import ids_of, LAYOUTS, random_parts, TEXT
from tests.models import tiny

LAYOUT = LAYOUTS["all"]
PLACES = CodePlaces(TEXT, LAYOUT.num_sizes, frames=2, rows=3, columns=5)  # Fewer than come: the last is shared.
WINDOW = 6


def written(layout, parts) -> list[tuple[int, int, int] | None]:
  """The place of each id, by the spans alone."""
  found = []
  for part in parts:
    if isinstance(part, np.ndarray):
      found += [None] * len(part)
      continue
    sounds = [None] * len(layout.flatten(part))
    if part.medium == "audio":
      found += sounds
      continue
    frames = part.codes[None] if part.medium == "image" else part.codes
    _, h, w, k = frames.shape
    found += [None] * 3
    for frame in range(len(frames)):
      for row in range(h):
        found += [*((frame, row, column) for column in range(w * k)), None]
      if part.sound is not None:
        found += [None] * (1 + part.sound[frame].size)
      found += [None] * (part.medium == "video")
    found.append(None)
  return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_places_follow_from_the_stream(layout):
  """Whole, and cut anywhere; of several rows, and with padding before."""
  config = CodePlaces(TEXT, layout.num_sizes, frames=9, rows=8, columns=17)
  for seed in range(6):
    rng = np.random.default_rng(seed)
    rows = [random_parts(layout, rng) for _ in range(2)]
    expected, ids = [written(layout, parts) for parts in rows], [ids_of(layout, parts) for parts in rows]
    length = 500  # The same for all, so that little is compiled.
    assert length - 6 > max(map(len, ids))
    tokens = np.stack([np.pad(one, (length - len(one), 0)) for one in ids])
    for cuts in ([], [length - 40, length - 33, length - 8]):
      state, pieces = config.start(2), []
      for piece in np.split(tokens, cuts, axis=1):
        places, placed, state = config.find(piece, state)
        pieces.append((np.asarray(places), np.asarray(placed)))
      places, placed = (np.concatenate(parts, 1) for parts in zip(*pieces))
      for row, one in enumerate(expected):
        start = length - len(one)
        assert not placed[row, :start].any()
        found = [tuple(place - (0, 9, 17)) if there else None
                 for place, there in zip(places[row, start:], placed[row, start:])]
        assert found == one


def model(**options):
  return tiny.make(vocab_size=LAYOUT.size, code_places=PLACES, memory_length=30, **options)


def stream(length):
  rng = np.random.default_rng(3)
  return np.stack([np.resize(ids_of(LAYOUT, random_parts(LAYOUT, rng, 30)), length) for _ in range(tiny.ROWS)])


@pytest.mark.parametrize("options", [{}, {"scan_layers": False, "norm_position": "pre", "positions": "rotary"}],
                         ids=["paper", "rotary"])
def test_segments_and_steps_know_the_same_places(options):
  one, tokens = model(**options), stream(30)
  whole = np.asarray(one.log_probs(one.params, tokens)[0])
  memory, parts = one.lm.initial_memory(tiny.ROWS), []
  for start in range(0, 30, 10):
    found, memory = one.log_probs(one.params, tokens[:, start:start + 10], memory)
    parts.append(np.asarray(found))
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=5e-5)

  def decode(tokens):
    memory = one.lm.initial_memory(tiny.ROWS, 30, projected=True)
    logits, memory = one.lm.prefill(one.params, tokens[:, :10], jnp.ones((tiny.ROWS, 10), jnp.int32), memory)
    cache = one.lm.start_decoding(one.params, memory)

    def step(cache, token):
      logits, cache = one.lm.decode_step(one.params, token, cache)
      return cache, logits

    return logits, jax.lax.scan(step, cache, tokens[:, 10:].T)[1]

  logits, rest = tiny.jit(decode)(tokens)
  steps = jax.nn.log_softmax(np.concatenate([logits[:, None], np.moveaxis(rest, 0, 1)], 1))
  np.testing.assert_allclose(steps, whole[:, 9:], atol=5e-5)


def test_a_code_is_told_by_its_place_alone():
  """The embedding is the code's own, and its place's three: two equal codes differ by their places' embeddings."""
  one = model()
  image = LAYOUT.flatten(Span("image", np.zeros((2, 2, 1), int)))[None]
  captures = one.lm.forward(one.params, image, one.lm.initial_memory(1, 0), capture=("embedding",)).captures
  found = captures["embedding"][0]
  table = one.params["vocabulary"]["code_places"] * one.config.embed_dim**0.5
  first, right, below = found[3], found[4], found[6]
  np.testing.assert_allclose(right - first, table[5 + 1] - table[5], atol=1e-5)
  np.testing.assert_allclose(below - first, table[2 + 1] - table[2], atol=1e-5)
  np.testing.assert_allclose(found[0], one.params["vocabulary"]["table"][image[0, 0]] * one.config.embed_dim**0.5,
                             atol=1e-5)


def test_it_counts_its_parameters():
  one = model()
  assert one.config.num_params() == sum(leaf.size for leaf in jax.tree.leaves(one.params))


def test_a_row_that_is_put_among_others_has_its_own_place():
  """Prompts end inside of pictures, at places of their own."""
  one = model()
  prompts = [LAYOUT.flatten(Span("image", np.zeros((2, 3, 1), int)))[:cut].tolist() for cut in (4, 5, 8)]
  engine = Engine(one.lm, WINDOW, eos_id=None, sampling=Sampling(temperature=0.0), segment_length=4, chunk_length=4)
  alone = [engine.step(one.params, engine.start(one.params, engine.prefill(one.params, [prompt])))[0].tokens[0]
           for prompt in prompts]
  slots = engine.start(one.params, engine.prefill(one.params, prompts[:2]))
  slots = engine.insert(one.params, slots, 1, engine.prefill(one.params, prompts[2:]))
  np.testing.assert_array_equal(slots.cache.places, [[0, 0, 1, 0], [0, 1, 1, 0]])
  np.testing.assert_array_equal(engine.step(one.params, slots)[0].tokens, [alone[0], alone[2]])
  assert isinstance(slots.cache, Cache)


def test_microbatches_have_their_rows():
  memory = model().lm.initial_memory(4)
  memory = memory.replace(places=jnp.arange(16).reshape(4, 4))
  np.testing.assert_array_equal(memory.split(2).places[:, :, 0], [[0, 8], [4, 12]])
  np.testing.assert_array_equal(memory.split(2).join().places, memory.places)
  np.testing.assert_array_equal(memory.roll(1).places, memory.places)
  np.testing.assert_array_equal(memory.repeat(2).places[:, 0], [0, 0, 4, 4, 8, 8, 12, 12])


@pytest.mark.parametrize("field", ["text_size", "num_sizes", "frames", "rows", "columns"])
def test_sizes_are_positive(field):
  with pytest.raises(UserError, match=rf"CodePlaces.{field} = 0 must be at least 1"):
    dataclasses.replace(PLACES, **{field: 0})
