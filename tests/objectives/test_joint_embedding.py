"""Facts in the loss: TransE over descriptions, against NumPy, with rows of text left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.objectives.joint_embedding import JointEmbedding, last_states
from gpt4x.objectives.next_token import NextToken
from tests.models import tiny
from tests.objectives.test_objectives import batch_of, graph, MEMORY, MODEL, ROWS

OBJECTIVE = JointEmbedding(weight=0.5, margin=2.0)


def sums_of(objective, batch):
  memory = objective.initial_memory(MODEL.lm, ROWS, MEMORY)
  return tiny.jit(lambda params, batch: objective(MODEL.lm, params, {}, batch, memory, None))(MODEL.params, batch)[0]


def test_the_loss_is_the_paper_s():
  batch = graph()
  found = sums_of(OBJECTIVE, batch)
  hidden = np.asarray(MODEL.lm.forward(
      MODEL.params, batch["decoder_input_tokens"], MODEL.lm.initial_memory(ROWS, MEMORY),
      batch["decoder_segment_ids"]).hidden, np.float64)
  # The last tokens of the sequences of rows 2 and 3.
  head, relation, tail, other = hidden[2, [0, 2, 4, 5]]
  first = np.abs(head + relation - tail).sum(), np.abs(head + relation - other).sum()
  head, relation, tail, other = hidden[3, [1, 2, 3, 4]]
  second = np.abs(head + relation - tail).sum(), np.abs(other + relation - tail).sum()
  near, far = np.array([first, second]).T / np.sqrt(hidden.shape[-1])
  expected = np.log1p(np.exp(near - 2)) + np.log1p(np.exp(2 - far))
  np.testing.assert_allclose(found["embedding_loss"].value, expected.sum(), rtol=1e-4)
  assert found["embedding_loss"].weight == 2
  np.testing.assert_allclose(found["embedding_accuracy"].value, (near < far).sum())


def test_its_margin_is_the_paper_s():
  assert JointEmbedding().margin == 4.0


def test_likelihood_is_as_without_it():
  expected, found = (sums_of(one, graph()) for one in (NextToken(), OBJECTIVE))
  for name, one in expected.items():
    np.testing.assert_allclose([found[name].value, found[name].weight], [one.value, one.weight], rtol=1e-5)


def test_text_alone_has_no_facts():
  batch = batch_of() | {"decoder_sequences": np.zeros_like(batch_of()["decoder_segment_ids"])}
  found = sums_of(OBJECTIVE, batch)
  assert found["embedding_loss"].value == found["embedding_loss"].weight == 0


def test_no_description_sees_another():
  """What stands in the tail changes no state of the head."""
  batch = graph()
  other = {name: value.copy() for name, value in batch.items()}
  other["decoder_input_tokens"][2, 3:5] = 3 - batch["decoder_input_tokens"][2, 3:5] % 3
  states = lambda batch: last_states(MODEL.lm.forward(
      MODEL.params, batch["decoder_input_tokens"], MODEL.lm.initial_memory(ROWS, MEMORY),
      batch["decoder_segment_ids"]).hidden, jnp.asarray(batch["decoder_sequences"]), 5)
  before, after = states(batch), states(other)
  np.testing.assert_allclose(after[2, :2], before[2, :2], rtol=1e-6)
  assert np.abs(after[2, 2] - before[2, 2]).max() > 1e-3


def test_training_brings_facts_nearer():
  batch = graph()
  memory = OBJECTIVE.initial_memory(MODEL.lm, ROWS, MEMORY)
  def loss(params):
    sums = OBJECTIVE(MODEL.lm, params, {}, batch, memory, None)[0]["embedding_loss"]
    return sums.value / sums.weight
  step = tiny.jit(jax.value_and_grad(loss))
  params, losses = MODEL.params, []
  for _ in range(12):
    value, gradients = step(params)
    losses.append(float(value))
    params = jax.tree.map(lambda one, slope: one - 0.02 * slope, params, gradients)
  assert losses[-1] < 0.8 * losses[0]


def test_data_without_descriptions_is_refused():
  with pytest.raises(UserError, match="the data has none: name a task such as local_descriptions_bytes"):
    sums_of(OBJECTIVE, batch_of())
