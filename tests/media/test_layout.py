"""The ranges of the one vocabulary, and streams of it there and back, against a parser of another hand."""

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media.layout import Layout, MODALITIES, Span, Tokens
from tests.media import streams
from tests.media.streams import assert_same, ids_of, LAYOUTS, Parser, random_parts

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@layouts
def test_every_id_is_in_one_range_and_text_keeps_its_own(layout):
  found = np.zeros(layout.size, int)
  for ids in layout.ranges.values():
    found[ids.start:ids.stop] += 1
  assert (found == 1).all()
  assert layout.ranges["text"] == range(streams.TEXT) and len(layout.ranges["special"]) == 16
  assert len(layout.ranges["size"]) == layout.num_sizes and layout.size == Parser(layout, []).size


@layouts
def test_the_first_and_the_last_id_of_every_range(layout):
  """Their modality; and of codes, the first and the last one, there and back."""
  for name, ids in layout.ranges.items():
    medium = name.partition(".")[0]
    modality = medium if medium in MODALITIES else "structure"
    assert [MODALITIES[layout.modality[i]] for i in (ids[0], ids[-1])] == [modality] * 2, name
  for medium in layout.media:
    tokens = layout.tokens(medium)
    for codes in (np.zeros(len(tokens.num_codes), int), np.array(tokens.num_codes) - 1):
      span = Span(medium, codes.reshape((1,) * {"image": 2, "audio": 1, "video": 3}[medium] + (-1,)))
      ids = layout.flatten(span)
      assert ids.dtype == np.int32 and all(i in one for i, one in zip(
          ids[1 if medium == "audio" else 3:], layout.code_ranges(medium)))
      assert_same(layout.parse(ids), [span])
    for code in (-1, tokens.num_codes[-1]):
      wrong = codes.copy()
      wrong[-1] = code
      with pytest.raises(ValueError, match="is outside its"):
        layout.flatten(Span(medium, wrong.reshape(span.codes.shape)))


@pytest.mark.parametrize("h, w", [(1, 1), (1, 4), (4, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("medium", ["image", "video"])
def test_a_picture_has_its_rows_and_columns(medium, h, w):
  layout = LAYOUTS["all"]
  k, lead = len(layout.tokens(medium).num_codes), () if medium == "image" else (2,)
  ids = layout.flatten(Span(medium, np.zeros((*lead, h, w, k), int)))
  frame = h * (w * k + 1) + (medium == "video")
  assert len(ids) == 3 + (2 if lead else 1) * frame + 1
  assert [i - layout.ranges["size"].start + 1 for i in ids[1:3]] == [h, w]
  ends = np.flatnonzero(ids[3:3 + frame] == layout.special("ROW_END"))
  assert ends.tolist() == [(row + 1) * (w * k + 1) - 1 for row in range(h)]


@layouts
@pytest.mark.parametrize("seed", range(12))
def test_documents_there_and_back(layout, seed):
  parts = random_parts(layout, np.random.default_rng(seed))
  ids = ids_of(layout, parts)
  found = layout.parse(ids)
  assert_same(found, parts)
  assert all(part.complete for part in found if isinstance(part, Span))
  parser = Parser(layout, ids)
  parser.run()  # Raises nothing: it is legal to the other parser, too.
  assert parser.open is None
  assert_same(found, parser.parts)


@layouts
@pytest.mark.parametrize("seed", range(6))
def test_a_stream_that_is_cut_anywhere(layout, seed):
  """Whole rows, frames and cells are there, nothing of the others; so sound of 0, 1 and K - 1 codes has no cell."""
  ids = ids_of(layout, random_parts(layout, np.random.default_rng(100 + seed), 3))
  for length in range(len(ids) + 1):
    parser = Parser(layout, ids[:length])
    parser.run()
    found = layout.parse(ids[:length])
    assert [part.complete for part in found if isinstance(part, Span)] == [
        True] * sum(not isinstance(part, list) for part in parser.parts) + [False] * bool(parser.open)
    expected = parser.parts + ([parser.open] if parser.open else [])
    assert_same(found, expected)


@layouts
@pytest.mark.parametrize("seed", range(20))
def test_any_ids_may_be_parsed(layout, seed):
  """Also those that there are not, and in any order: what comes out are text and codes that there are."""
  rng = np.random.default_rng(seed)
  ids = ids_of(layout, random_parts(layout, rng))
  ids[rng.integers(0, len(ids), 3)] = rng.integers(-3, layout.size + 3, 3)
  for stream in (ids, rng.integers(-3, layout.size + 3, 100)):
    for part in layout.parse(stream):
      if isinstance(part, Span):
        assert_codes_exist(layout, part.medium, part.codes)
        for cells in part.sound or ():
          assert_codes_exist(layout, "audio", cells)
      else:
        assert part.size and part.min() >= 0 and part.max() < layout.text_size


def assert_codes_exist(layout, medium, codes):
  limits = np.array(layout.tokens(medium).num_codes)
  assert codes.shape[-1] == len(limits) and (codes >= 0).all() and (codes < limits).all()


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"text"}))
@pytest.mark.parametrize("seed", range(10))
def test_a_broken_span_hides_nothing_of_what_is_around_it(name, seed):
  layout, rng = LAYOUTS[name], np.random.default_rng(seed)
  before, after = (random_parts(layout, rng, 2) for _ in range(2))
  whole = layout.flatten(streams.random_span(layout, rng.choice(layout.media), rng))
  broken = whole[:rng.integers(1, len(whole))]
  parser = Parser(layout, broken)
  parser.run()
  text = np.array([3], np.int32)
  found = layout.parse(np.concatenate([ids_of(layout, before), broken, text, ids_of(layout, after)]))
  assert_same(found, [*before, parser.open, *layout.parse(np.concatenate([text, ids_of(layout, after)]))])


@pytest.mark.parametrize("count", range(7))
def test_interleaved_codebooks_are_undone(count):
  """Of K = 3 codes a cell."""
  layout = LAYOUTS["pixels"]
  codes = np.arange(6).reshape(2, 3) % [3, 2, 4]
  ids = layout.flatten(Span("audio", codes))
  span, = layout.parse(ids[:1 + count])
  np.testing.assert_array_equal(span.codes, codes[:count // 3])
  assert span.codes.shape == (count // 3, 3) and not span.complete
  if count % 3:  # A cell that is cut short and ended all the same.
    span, = layout.parse([*ids[:1 + count], layout.special("AUDIO_END")])
    assert len(span.codes) == count // 3 and not span.complete


def test_what_cannot_be_laid_out():
  layout = LAYOUTS["all"]
  for h, w in ((5, 1), (1, 5)):
    with pytest.raises(UserError, match=f"the image has {h} x {w} cells, and MediaTokens.sizes = 4 .*image_size"):
      layout.flatten(Span("image", np.zeros((h, w, 1), int)))
  with pytest.raises(UserError, match="no image tokens: set MediaTokens.image"):
    LAYOUTS["text"].flatten(Span("image", np.zeros((1, 1, 1), int)))
  with pytest.raises(UserError, match="no audio tokens"):
    LAYOUTS["shared"].flatten(Span("video", np.zeros((1, 1, 1, 1), int), (np.zeros((1, 1), int),)))
  for span in (Span("audio", np.zeros((2, 3), int)), Span("image", np.zeros((2, 2), int)),
               Span("video", np.zeros((0, 1, 1, 2), int)), Span("video", np.zeros((2, 1, 1, 2), int), ())):
    with pytest.raises(ValueError):
      layout.flatten(span)
  with pytest.raises(ValueError):
    Tokens((3, 4), shared_range=True)
  with pytest.raises(UserError, match="MediaTokens.sizes = 0"):
    Layout(10, 1, num_sizes=0)


@pytest.mark.parametrize("first", [True, False])
def test_all_frames_of_a_video_have_sound_or_none(first):
  layout = LAYOUTS["all"]
  sounds = (np.zeros((2, 2), int), np.zeros((0, 2), int))
  frames = [layout.flatten(Span("video", np.zeros((1, 1, 2, 2), int), sound)) for sound in (sounds[:1], None)]
  one, other = frames if first else frames[::-1]
  found = layout.parse(np.concatenate([one[:-1], other[3:]]))  # Without the end of the one, and the begin of the other.
  assert_same(found, [Span("video", np.zeros((1, 1, 2, 2), int), sounds[:1] if first else None)])
  assert not found[0].complete
  with pytest.raises(streams.Illegal):
    Parser(layout, np.concatenate([one[:-1], other[3:]])).run()
