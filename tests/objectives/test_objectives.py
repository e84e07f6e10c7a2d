"""What every objective must do: a new one is one line of OBJECTIVES."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.next_token import NextToken
from gpt4x.training.gradients import microbatched, whole
from tests.models import tiny
from tests.objectives.doubles import Distillation

LENGTH, MEMORY, ROWS = 6, 5, 4
MODEL = tiny.make(norm_position="pre", memory_length=MEMORY)
TEACHER = tiny.make(norm_position="pre", memory_length=MEMORY, embed_dim=12, num_layers=1)
FROZEN = {"teacher": TEACHER.params}
OBJECTIVES = {"next_token": NextToken(), "z_loss": NextToken(z_loss=0.1), "distillation": Distillation(TEACHER.lm)}
objectives = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def batch_of(length=LENGTH, seed=0):
  """Rows of very different numbers of weighted targets, one of them with none."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, MODEL.config.vocab_size, (ROWS, length + 1), dtype=np.int32)
  weights = (rng.random((ROWS, length)) < np.array([[1.0], [0.6], [0.2], [0.0]])).astype(np.float32)
  return {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
          "decoder_segment_ids": np.ones((ROWS, length), np.int32), "decoder_loss_weights": weights}


@functools.cache
def run(objective, length=LENGTH):
  """(sums, memory) of a batch from an empty memory."""
  memory = objective.initial_memory(MODEL.lm, ROWS, MEMORY)
  return tiny.jit(lambda params, batch: objective(MODEL.lm, params, FROZEN, batch, memory, None))(
      MODEL.params, batch_of(length))


@objectives
def test_its_coefficients_are_of_sums_that_it_has(objective):
  sums, _ = run(objective)
  assert set(objective.coefficients(MODEL.lm)) <= set(sums) and "loss" in sums
  assert all(np.isfinite(value) for value in metrics(sums).values())


@objectives
def test_its_memory_keeps_its_shape(objective):
  _, memory = run(objective)
  empty = objective.initial_memory(MODEL.lm, ROWS, MEMORY)
  assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, empty)
  assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(memory))


@objectives
def test_rows_add_up(objective):
  """The sums of two halves of a batch are those of the whole."""
  whole_sums, _ = run(objective)
  half = lambda start: {name: rows[start:start + 2] for name, rows in batch_of().items()}
  memory = objective.initial_memory(MODEL.lm, 2, MEMORY)
  of = tiny.jit(lambda params, batch: objective(MODEL.lm, params, FROZEN, batch, memory, None)[0])
  first, second = of(MODEL.params, half(0)), of(MODEL.params, half(2))
  for name, expected in whole_sums.items():
    found = first[name] + second[name]
    np.testing.assert_allclose([found.value, found.weight], [expected.value, expected.weight], rtol=1e-4)


@objectives
def test_microbatches_of_unequal_weights_are_one_batch(objective):
  """Each sum is divided by its weight in the whole batch, whichever microbatch it comes from."""
  memory = objective.initial_memory(MODEL.lm, ROWS, MEMORY)
  loss = lambda params, batch, memory, rng: objective(MODEL.lm, params, FROZEN, batch, memory, None)
  take = lambda gradients: tiny.jit(functools.partial(gradients, loss, objective.coefficients(MODEL.lm)))(
      MODEL.params, batch_of(), memory, jax.random.key(0))
  gradients, sums, after = take(microbatched(2))
  expected_gradients, expected_sums, expected_after = take(whole)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradients, expected_gradients)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), sums, expected_sums)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after, expected_after)


@objectives
def test_the_gradient_is_that_of_the_weighted_mean(objective):
  """A small step against it lowers the mean by what it promises."""
  memory, batch = objective.initial_memory(MODEL.lm, ROWS, MEMORY), batch_of()

  def value(params):
    sums, _ = objective(MODEL.lm, params, FROZEN, batch, memory, None)
    return weighted_mean(sums, objective.coefficients(MODEL.lm))

  value_and_grad = tiny.jit(jax.value_and_grad(value))
  before, gradient = value_and_grad(MODEL.params)
  step = jax.tree.map(lambda param, slope: param - 1e-3 * slope, MODEL.params, gradient)
  norm = sum(float(jnp.sum(slope**2)) for slope in jax.tree.leaves(gradient))
  np.testing.assert_allclose(before - value_and_grad(step)[0], 1e-3 * norm, rtol=0.1)
