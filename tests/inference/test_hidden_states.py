"""Vectors of texts: those of each text alone, in one piece, whichever batch and pieces it came in."""

import numpy as np
import pytest

from gpt4x.inference import hidden_states
from gpt4x.inference.hidden_states import HiddenStates
from tests.models import tiny

WINDOW = 20
LENGTHS = (3, 1, 40, 15, 16, 70, 17)


def texts(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(1, 11, length).tolist() for length in LENGTHS]


def alone(model, ids, prefix=False, layer="final", start=0):
  """The mean and the last state of one text, run whole."""
  tokens = np.array([[start, *ids]], np.int32)
  memory = model.lm.initial_memory(1, WINDOW if model.config.empty_memory == "zeros" else 0)
  run = tiny.jit(lambda params: model.lm.forward(
      params, tokens, memory, prefix=np.ones_like(tokens) if prefix else None, window=WINDOW, capture=[layer]).captures)
  states = run(model.params)[layer][0, 1:]
  return np.concatenate([np.mean(states, 0), states[-1]])


@pytest.mark.parametrize("style", ["paper", "same_length", "zeros", "mixture"])
def test_a_text_s_vectors_are_its_own(style):
  """Within one piece and over several, with a window that is shorter than the text."""
  model = tiny.make(**tiny.STYLES[style], memory_length=WINDOW)
  found = HiddenStates(model.lm, WINDOW, segment_length=16)(model.params, texts())
  assert found.shape == (7, 16) and found.dtype == np.float32
  for place in (3, 5):
    np.testing.assert_allclose(found[place], alone(model, texts()[place]), atol=2e-4, rtol=1e-4)


def test_prefixes_see_all_in_both_directions():
  model = tiny.make(**tiny.STYLES["modern"])
  states = HiddenStates(model.lm, WINDOW, start_id=2, bidirectional=True, segment_length=16)
  found = states(model.params, texts()[:3])
  for row, ids in list(zip(found, texts()))[::2]:
    np.testing.assert_allclose(row, alone(model, ids, prefix=True, start=2), atol=2e-4, rtol=1e-4)


def test_other_layers_may_be_asked():
  """The means of all come before the last states of all."""
  model = tiny.make(**tiny.STYLES["modern"])
  names = ["layers.0.output", "final"]
  states = HiddenStates(model.lm, WINDOW, layers=names)
  found = states(model.params, texts()[:1])
  assert found.shape == (1, states.size) == (1, 32)
  means, last = np.split(np.stack([alone(model, texts()[0], layer=name) for name in names]), 2, 1)
  np.testing.assert_allclose(found[0], np.concatenate([*means, *last]), atol=2e-4, rtol=1e-4)


def test_order_and_company_do_not_matter(monkeypatch):
  model = tiny.make(**tiny.STYLES["paper"])
  together = HiddenStates(model.lm, WINDOW, segment_length=16)(model.params, texts())
  monkeypatch.setattr(hidden_states, "TOKENS", 32)
  few = HiddenStates(model.lm, WINDOW, segment_length=16)(model.params, texts()[::-1])[::-1]
  np.testing.assert_allclose(together, few, atol=1e-5, rtol=1e-5)


def test_few_shapes_are_compiled():
  """Of hundreds of lengths: powers of two, and no longer ones than a piece; a batch is as long as its longest text."""
  model = tiny.make(**tiny.STYLES["paper"])
  lengths = np.random.default_rng(0).permutation(np.arange(2, 300)).tolist()
  batches = list(HiddenStates(model.lm, WINDOW, segment_length=64)._batches(lengths))
  assert [(length, segments) for _, length, segments in batches] == [(16, 1), (32, 1), (64, 3), (64, 5), (64, 5)]
  assert sorted(np.concatenate([places for places, _, _ in batches])) == list(range(298))
  whole = list(HiddenStates(model.lm, WINDOW, bidirectional=True, segment_length=64)._batches(lengths))
  assert {(length, segments) for _, length, segments in whole} == {(2**i, 1) for i in range(4, 10)}
