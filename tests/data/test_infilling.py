"""Middles that come last: every character is there, once, and a prompt is what training has before a middle."""

import numpy as np
import pytest
import seqio

from gpt4x.data import infilling
from gpt4x.data.vocabularies import MarkedVocabulary, Marks
from gpt4x.errors import UserError

VOCABULARY = MarkedVocabulary(Marks(spans=3)).held()
PREFIX, SUFFIX, MIDDLE, END = (VOCABULARY.mark(name) for name in ("<prefix>", "<suffix>", "<middle>", "<end>"))


def parts(ids):
  """(order, text in its own order) of each part of rearranged ids."""
  text = lambda some: VOCABULARY.text.decode(some)
  while ids:
    if ids[0] != PREFIX:
      stop = ids.index(PREFIX) if PREFIX in ids else len(ids)
      yield "plain", text(ids[:stop])
    else:
      stop, suffix, middle = (1 + ids.index(END), ids.index(SUFFIX), ids.index(MIDDLE))
      if suffix == 1:
        # The middle goes on from what is before it: together they are what comes in front of the suffix.
        yield "SPM", text(ids[middle + 1:stop - 1]) + text(ids[2:middle])
      else:
        yield "PSM", text(ids[1:suffix]) + text(ids[middle + 1:stop - 1]) + text(ids[suffix + 1:middle])
    ids = ids[stop:]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 200])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_no_character_is_lost(length, rate):
  text = "".join(chr(0x61 + i % 26) if i % 5 else "é" for i in range(length))
  for seed in range(30):
    ids = infilling.rearranged(text, VOCABULARY, np.random.default_rng(seed), rate, 0.5, 32)
    assert "".join(part for _, part in parts(ids)) == text
    assert sum(token == MIDDLE for token in ids) == (0 if rate == 0 else -(-length // 32) if rate == 1 else sum(
        token == END for token in ids))


def test_as_many_are_told_so_as_gin_says():
  rng, text = np.random.default_rng(0), "some text that is told in another order"
  orders = [order for _ in range(1000) for order, _ in parts(
      infilling.rearranged(text, VOCABULARY, rng, 0.5, 0.25, None))]
  shares = [orders.count(order) / 1000 for order in ("plain", "PSM", "SPM")]
  np.testing.assert_allclose(shares, [0.5, 0.375, 0.125], atol=0.04)


def test_cuts_are_between_any_characters():
  """Not between words or tokens: what is typed ends in the middle of them (arXiv:2207.14255, section 4.4)."""
  rng, text, places = np.random.default_rng(0), "whole words été", set()
  for _ in range(400):
    ids = infilling.rearranged(text, VOCABULARY, rng, 1.0, 0.0, None)
    before, behind = (VOCABULARY.text.decode(ids[start + 1:stop]) for start, stop in (
        (0, ids.index(SUFFIX)), (ids.index(SUFFIX), ids.index(MIDDLE))))
    assert text.startswith(before) and text.endswith(behind)
    places |= {len(before), len(text) - len(behind)}
  assert places == set(range(len(text) + 1))


@pytest.mark.parametrize("suffix_first", [False, True])
def test_a_prompt_is_what_comes_before_a_middle(suffix_first):
  rng, text = np.random.default_rng(0), "abcdefgh"
  ids = infilling.rearranged(text, VOCABULARY, rng, 1.0, float(suffix_first), None)
  middle = ids.index(MIDDLE)
  for first in range(9):
    for second in range(first, 9):
      prompt = infilling.prompt(VOCABULARY, text[:first], text[second:], suffix_first)
      whole = [*prompt, *VOCABULARY.encode(text[first:second]), END]
      if whole == ids:
        assert prompt[:middle + 1] == ids[:middle + 1]
        return
  raise AssertionError("no prompt leads to what training has")


def test_without_marks_there_is_nothing_to_fill():
  with pytest.raises(UserError, match="ByteVocabulary, has no marks .* local_text_infill"):
    infilling.prompt(seqio.ByteVocabulary(), "a", "b")
