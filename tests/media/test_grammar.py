"""What the grammar allows is what may come: against the parser of another hand, id by id."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media.grammar import Grammar, stack
from gpt4x.media.layout import Span
from tests.media.streams import assert_same, EOS, ids_of, Illegal, LAYOUTS, Parser, random_parts, TEXT

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@functools.cache
def compiled(grammar):
  """(allowed, after), as arrays inside jit."""
  return jax.jit(grammar.allowed), jax.jit(grammar.after)


def allowed_ids(grammar, state):
  mask = np.asarray(compiled(grammar)[0](state))
  assert mask.shape == (grammar.layout.size,)
  return set(np.flatnonzero(mask).tolist())


@layouts
@pytest.mark.parametrize("seed", range(4))
def test_every_legal_stream_is_allowed_step_by_step(layout, seed):
  """And what is allowed is, at each of its ids, just what the other parser would take; a span has no text in it."""
  grammar = Grammar(layout, frozenset(layout.media))
  ids = ids_of(layout, random_parts(layout, np.random.default_rng(seed)))
  state = grammar.start()
  for place, token in enumerate(ids):
    found, parser = allowed_ids(grammar, state), Parser(layout, ids[:place])
    assert found == parser.run(), place
    if parser.open:
      assert not found & set(range(TEXT)), "padding and EOS are text"
    assert token in found
    state = compiled(grammar)[1](state, token)
  assert allowed_ids(grammar, state) == Parser(layout, ids).run()


def draw(grammar, rng, count, prompt=()):
  """Ids that the grammar allows, each as likely."""
  state, ids = grammar.of_prompt(prompt), list(prompt)
  for _ in range(count):
    ids.append(int(rng.choice(sorted(allowed_ids(grammar, state)))))
    state = compiled(grammar)[1](state, ids[-1])
  return ids


@layouts
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_drawn_parses(layout, seed):
  ids = draw(Grammar(layout, frozenset(layout.media)), np.random.default_rng(seed), 120)
  parser = Parser(layout, ids)
  parser.run()
  assert_same(layout.parse(ids), parser.parts + [parser.open] * (parser.open is not None))


@layouts
@pytest.mark.parametrize("seed", range(3))
def test_the_state_of_a_prompt(layout, seed):
  """It is that of its ids one after the other, wherever it is cut."""
  grammar = Grammar(layout, frozenset(layout.media))
  ids = ids_of(layout, random_parts(layout, np.random.default_rng(20 + seed), 4))
  state = grammar.start()
  for place, token in enumerate(ids):
    of_prompt = grammar.of_prompt(ids[:place])
    assert allowed_ids(grammar, of_prompt) == allowed_ids(grammar, state)
    assert all(leaf.dtype == np.int32 and leaf.shape == () for leaf in jax.tree.leaves(of_prompt))
    state = compiled(grammar)[1](state, token)


@layouts
def test_a_prompt_that_breaks_the_grammar(layout):
  """At any place, and the message names it; also where all that is wrong is the order of whole spans' ids."""
  rng = np.random.default_rng(0)
  grammar = Grammar(layout)
  ids = ids_of(layout, random_parts(layout, rng, 3))
  for _ in range(40):
    broken = ids.copy()
    broken[rng.integers(len(ids))] = rng.integers(0, layout.size)
    wrong = Parser(layout, broken)
    try:
      wrong.run()
    except Illegal as error:
      place = error.args[0]
      with pytest.raises(UserError, match=f"^token {place} of the prompt is {broken[place]}, where .*: correct the"):
        grammar.of_prompt(broken)
  for token in (-1, layout.size):
    with pytest.raises(UserError, match=f"token 1 of the prompt is {token}, where"):
      grammar.of_prompt([3, token])


@pytest.mark.parametrize("begins", [(), ("audio",), ("image", "video")])
def test_only_some_media_may_begin(begins):
  layout = LAYOUTS["all"]
  grammar = Grammar(layout, frozenset(begins))
  expected = set(range(TEXT)) | {layout.special(medium.upper()) for medium in begins}
  image = layout.flatten(Span("image", np.zeros((2, 1, 1), int)))
  for prompt in ([], [4], [*image], [EOS]):  # In a prompt, all may.
    assert allowed_ids(grammar, grammar.of_prompt(prompt)) == expected


@pytest.mark.parametrize("medium", ["image", "audio", "video"])
@pytest.mark.parametrize("prompt", [(), (5, 6), "image"], ids=["empty", "text", "image"])
def test_one_medium_alone(medium, prompt):
  layout = LAYOUTS["all"]
  prompt = layout.flatten(Span("image", np.zeros((1, 1, 1), int))) if prompt == "image" else prompt
  grammar = Grammar(layout, frozenset({medium}), only=medium, size=(2, 3), cells=2)
  ids = draw(grammar, np.random.default_rng(0), 200, prompt)
  whole, = layout.parse([i for i in ids[len(prompt):] if i != EOS])
  assert whole.medium == medium and whole.complete
  assert whole.codes.shape == {"image": (2, 3, 1), "audio": (2, 2), "video": (2, 2, 3, 2)}[medium]
  end = ids.index(layout.special(f"{medium.upper()}_END"), len(prompt))
  assert set(ids[end + 1:]) <= {EOS}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (3, 2)])
def test_a_size_that_is_asked_for(size):
  """Wherever an image begins; one that the prompt has begun keeps its own."""
  layout = LAYOUTS["all"]
  grammar = Grammar(layout, frozenset({"image"}), size=size)
  parts = layout.parse(draw(grammar, np.random.default_rng(1), 200))
  images = [part for part in parts if isinstance(part, Span) and part.complete]
  assert len(images) > 1 and all(image.codes.shape[:2] == size for image in images)
  begun = layout.flatten(Span("image", np.zeros((2, 2, 1), int)))[:4]
  span = layout.parse(draw(grammar, np.random.default_rng(1), 20, begun))[0]
  assert span.codes.shape == (2, 2, 1) and span.complete


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_a_number_of_cells_that_is_asked_for(cells):
  """Those of a prompt count. The sound of a video has as many cells as it likes."""
  layout = LAYOUTS["all"]
  grammar = Grammar(layout, frozenset({"audio", "video"}), size=(1, 1), cells=cells)
  parts = layout.parse(draw(grammar, np.random.default_rng(2), 600))
  spans = [part for part in parts if isinstance(part, Span) and part.complete]
  assert {span.medium for span in spans} == {"audio", "video"} and all(len(span.codes) == cells for span in spans)
  assert len({len(sound) for span in spans for sound in span.sound or ()}) > 1
  begun = layout.flatten(Span("audio", np.zeros((2, 2), int)))[:-1]
  span = layout.parse(draw(grammar, np.random.default_rng(2), 20, begun))[0]
  assert len(span.codes) == max(cells, 2) and span.complete


def test_rows_have_a_state_each():
  layout = LAYOUTS["all"]
  grammar = Grammar(layout, frozenset(layout.media))
  prompts = [[], [3, layout.special("AUDIO")], [layout.special("VIDEO"), layout.ranges["size"][1]]]
  states = stack([grammar.of_prompt(prompt) for prompt in prompts])
  masks = jax.jit(jax.vmap(grammar.allowed))(states)
  for mask, prompt in zip(masks, prompts):
    assert set(np.flatnonzero(mask).tolist()) == Parser(layout, prompt).run()
  tokens = jnp.array([layout.special("IMAGE"), layout.code_ranges("audio")[0][0], layout.ranges["size"][0]])
  masks = jax.jit(jax.vmap(grammar.allowed))(jax.vmap(grammar.after)(states, tokens))
  for mask, prompt, token in zip(masks, prompts, tokens):
    assert set(np.flatnonzero(mask).tolist()) == Parser(layout, [*prompt, token]).run()


def test_a_grammar_that_the_vocabulary_has_not():
  layout = LAYOUTS["sounds"]
  for arguments in ({"begins": {"image"}}, {"only": "image"}, {"only": "smell"}):
    with pytest.raises(UserError, match="the model cannot make .*: its vocabulary has the media audio, video"):
      Grammar(layout, **arguments)
  for size in ((3, 1), (0, 1)):
    with pytest.raises(UserError, match=f"{size[0]} x 1 cells are wanted, and the vocabulary has sizes 1 to 2"):
      Grammar(layout, only="video", size=size)
  with pytest.raises(UserError, match="0 cells of sound, or frames, are wanted"):
    Grammar(layout, only="audio", cells=0)
  with pytest.raises(UserError, match="the prompt ends inside of audio, and video is to be made"):
    Grammar(layout, only="video").of_prompt([layout.special("AUDIO")])
  # Where no id ends a document, one medium is followed by text.
  grammar = Grammar(layout, only="audio")
  assert allowed_ids(grammar, grammar.of_prompt([])) == {layout.special("AUDIO")}
  after = compiled(grammar)[1](compiled(grammar)[1](grammar.start(), layout.special("AUDIO")),
                               layout.special("AUDIO_END"))
  assert allowed_ids(grammar, after) == set(range(TEXT))


def test_a_grammar_is_one_for_jit():
  layout = LAYOUTS["all"]
  assert Grammar(layout, {"image"}) == Grammar(layout, frozenset({"image"}))
  assert len({Grammar(layout, {"image"}), Grammar(layout, frozenset({"image"}), size=None)}) == 1
