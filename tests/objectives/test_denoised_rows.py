"""What a model sees of rows in which something is hidden: all of the inputs, and no target before it has been said."""

import numpy as np
import pytest

from gpt4x.data.row_mixture import PART
from tests.models import tiny
from tests.objectives import denoised

MODEL = tiny.make(norm_position="pre", memory_length=0, vocab_size=denoised.MARKS.vocab_size)
FEATURES = "input_tokens", "segment_ids", "causal_attention", "loss_weights"


@tiny.jit
def logits(tokens, documents, both_ways):
  return MODEL.lm.logits(MODEL.params, tokens, MODEL.lm.initial_memory(len(tokens), 0), documents, both_ways)[0]


def changed_at_each(name):
  """(logits [L, V] of a part's row, those [L, L, V] with another input at each place, its features)."""
  batch = denoised.batches(3)[1]
  row = np.flatnonzero(batch[f"{PART}{name}"][:, 0])[0]
  tokens, documents, both_ways, weights = (batch[f"decoder_{feature}"][row] for feature in FEATURES)
  rows = np.tile(tokens, (denoised.LENGTH + 1, 1))
  places = np.arange(denoised.LENGTH)
  rows[1 + places, places] = (rows[1 + places, places] + 1) % 200
  found = np.asarray(logits(rows, *(np.tile(one, (len(rows), 1)) for one in (documents, both_ways))))
  return found[0], found[1:], (documents, both_ways, weights)


@pytest.mark.parametrize("name", ["text", "infill", "spans", "ul2", "prefix"])
def test_no_target_is_seen_before_it_is_said(name):
  """A target is the next place's input: another one there changes nothing up to the place where it is to be said."""
  plain, changed, (_, _, weights) = changed_at_each(name)
  said = np.flatnonzero(weights[:-1])
  assert len(said) > 1
  for place in said:
    np.testing.assert_array_equal(changed[place + 1, :place + 1], plain[:place + 1])
    assert np.abs(changed[place, place] - plain[place]).max() > 1e-4, "what comes before is seen"


@pytest.mark.parametrize("name", ["spans", "ul2", "prefix", "masked"])
def test_inputs_are_seen_from_both_sides(name):
  """By each other and by the targets; padding is seen by nothing."""
  plain, changed, (documents, both_ways, weights) = changed_at_each(name)
  inputs, real = np.flatnonzero(both_ways), documents > 0
  moved = np.abs(changed - plain).max(-1) > 0  # [the place of another input, the place that is looked at]
  assert moved[np.ix_(inputs, inputs)].all() and moved[np.ix_(inputs, np.flatnonzero(weights))].all()
  assert not moved[np.ix_(~real, real)].any()
