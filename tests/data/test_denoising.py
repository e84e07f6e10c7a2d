"""What is hidden of a text, and that inputs and targets together still say all of it."""

import itertools

import numpy as np
import pytest

from gpt4x.data import denoising
from gpt4x.data.denoising import Denoiser, PREFIX, T5, UL2


class Marks:
  """Ids below 100 are text."""

  spans, vocab_size = 20, 130

  def mark(self, name):
    return 100 + ("[R]", "[S]", "[X]").index(name)

  def span_id(self, number):
    assert 0 <= number < self.spans
    return self.vocab_size - 1 - number


MARKS = Marks()
EVERY = [*T5, *UL2, *PREFIX]


def told(example):
  """The text that inputs and targets are of: each mark replaced by what the targets have behind it."""
  answers, mark = {}, None
  for token in example.targets.tolist():
    if token >= 110:
      mark, answers[token] = token, []
    else:
      answers[mark].append(token)
  found = []
  for token in example.inputs.tolist():
    found += answers.pop(token) if token >= 110 else [token] if token < 100 else []
  assert not answers, "a mark of the targets is in no inputs"
  return found


@pytest.mark.parametrize("denoiser", [one for one in EVERY if one.mean], ids=repr)
@pytest.mark.parametrize("length", [2, 3, 7, 64, 300])
def test_nothing_is_lost_and_something_is_hidden(denoiser, length):
  ids = np.arange(length, dtype=np.int32) % 90
  for seed in range(20):
    spans = denoising.random_spans(length, denoiser.mean, denoiser.density, MARKS.spans, np.random.default_rng(seed))
    assert 1 <= len(spans) <= MARKS.spans
    bounds = [place for span in spans for place in span]
    assert bounds == sorted(set(bounds)) and bounds[0] > 0 and bounds[-1] <= length, "no two spans touch"
    example = denoising.hidden_spans(ids, spans, MARKS, denoiser.mode)
    assert told(example) == ids.tolist()
    hidden = sum(stop - start for start, stop in spans)
    assert hidden == min(max(round(length * denoiser.density), 1), length - 1)
    marks = [token for token in example.inputs.tolist() if token >= 110]
    assert marks == [MARKS.span_id(number) for number in range(len(spans))], "each mark once, in order"
    if denoiser.mode:
      assert example.inputs[0] == MARKS.mark(f"[{denoiser.mode}]")


def test_spans_are_as_long_and_as_many_as_they_are_to_be():
  rng = np.random.default_rng(0)
  lengths = [stop - start for _ in range(200) for start, stop in denoising.random_spans(400, 3, 0.15, 100, rng)]
  assert np.mean(lengths) == 3 and len(lengths) == 200 * 20 and len(set(lengths)) > 5
  starts = [denoising.random_spans(40, 3, 0.15, 100, rng)[0][0] for _ in range(2000)]
  assert np.min(starts) == 1 and np.max(starts) > 25, "they lie anywhere"


def test_a_vocabulary_with_few_marks_has_longer_spans():
  spans = denoising.random_spans(400, 3, 0.5, 20, np.random.default_rng(0))
  assert len(spans) == 20 and sum(stop - start for start, stop in spans) == 200


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_a_prefix_goes_on(density):
  ids, rng = np.arange(80, dtype=np.int32), np.random.default_rng(0)
  shares = []
  for _ in range(2000):
    inputs, targets = denoising.prefix(ids, density, MARKS, "S", rng)
    assert inputs[0] == MARKS.mark("[S]") and [*inputs[1:], *targets] == ids.tolist() and len(targets)
    shares.append(len(targets) / 80)
  assert np.mean(shares) == pytest.approx(density, abs=0.03) and max(shares) < min(1, 2 * density)


@pytest.mark.parametrize("denoiser", EVERY, ids=repr)
@pytest.mark.parametrize("lengths", [(20, 20), (72, 56), (512, 114), (10, 200)])
def test_the_longest_text_fits_and_a_longer_one_would_not(denoiser, lengths):
  fits = lambda length: _longest(denoiser, length) <= np.array(lengths) - (0, 1)  # An end is yet to come.
  size = denoising.most_tokens(denoiser, lengths, MARKS.spans)
  if size:
    assert fits(size).all()
  if denoiser.mean:
    assert size == 0 or not fits(size + 1).all()


def _longest(denoiser, length):
  """The most tokens that inputs and targets of a text have."""
  if denoiser.mean is None:
    return np.array([length - 1 + bool(denoiser.mode), max(1, min(length, round(2 * denoiser.density * length)) - 1)])
  spans = denoising.random_spans(length, denoiser.mean, denoiser.density, MARKS.spans, np.random.default_rng(0))
  example = denoising.hidden_spans(np.zeros(length, np.int32), spans, MARKS, denoiser.mode)
  return np.array([len(example.inputs), len(example.targets)])


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 23, 100])
@pytest.mark.parametrize("sizes", [[8], [16, 9], [50]])
def test_pieces_hold_all_of_a_text(length, sizes):
  found = list(denoising.pieces(length, itertools.cycle(sizes), 8))
  assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])] and found[-1][1] == length
  assert all(stop - start <= size for (start, stop), size in zip(found, itertools.cycle(sizes)))
  assert min(stop - start for start, stop in found) >= min(length, 8, *(size - 7 for size in sizes)), (
      "no scrap is left at the end")


def test_names_are_hidden_whole():
  names, rng = [(2, 5), (9, 10), (20, 26)], np.random.default_rng(0)
  for _ in range(50):
    found = denoising.whole_spans(names, 40, 0.15, 100, rng)
    assert set(found) <= set(names) and found == sorted(found) and found
    assert sum(stop - start for start, stop in found) >= 6 or len(found) == 3
  assert denoising.whole_spans([(0, 40)], 40, 0.15, 100, rng) == [], "something is shown"
  assert len(denoising.whole_spans(names, 40, 0.9, 2, rng)) == 2, "no more than there are marks"


def test_masks_are_bert_s():
  ids, hidden = np.arange(1000, dtype=np.int32) % 90, np.arange(1000) % 2 == 0
  inputs = denoising.masked(ids, hidden, 105, np.arange(200, 300, dtype=np.int32), np.random.default_rng(0))
  np.testing.assert_array_equal(inputs[~hidden], ids[~hidden])
  shown = inputs[hidden]
  shares = [np.mean(shown == 105), np.mean(shown >= 200), np.mean(shown == ids[hidden])]
  np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.04)


def test_a_draw_follows_from_its_seed():
  draw = lambda seed: denoising.random_spans(300, 8, 0.5, 100, np.random.default_rng(seed))
  assert draw(3) == draw(3) != draw(4)
  assert Denoiser(None, 3, 0.15) == T5[0] and {one.mode for one in UL2} == {"R", "S", "X"}
