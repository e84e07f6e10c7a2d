"""What every objective must do: a new one is one line of OBJECTIVES."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.media.codec_module import CodecConfig
from gpt4x.models.codec_model import CodecModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.distillation import Distillation
from gpt4x.objectives.joint_embedding import JointEmbedding
from gpt4x.objectives.next_token import NextToken
from gpt4x.objectives.reconstruction import Reconstruction
from gpt4x.training.gradients import microbatched, whole
from tests.models import tiny
from tests.objectives import taught

LENGTH, MEMORY, ROWS = 6, 5, 4
MODEL = tiny.make(norm_position="pre", memory_length=MEMORY)
TEACHER = tiny.make(norm_position="pre", memory_length=MEMORY, embed_dim=12, num_layers=1)
CODEC = CodecModel(CodecConfig("image", levels=(4, 3), patch=2, width=8, depth=1))
SAVED = SavedModel("Distillation.teacher", "nowhere", TEACHER.lm)
FROZEN = {"teacher": TEACHER.params}


def batch_of(seed=0):
  """Rows of very different numbers of weighted targets, one of them with none."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, MODEL.config.vocab_size, (ROWS, LENGTH + 1), dtype=np.int32)
  weights = (rng.random((ROWS, LENGTH)) < np.array([[1.0], [0.6], [0.2], [0.0]])).astype(np.float32)
  return {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
          "decoder_segment_ids": np.ones((ROWS, LENGTH), np.int32), "decoder_loss_weights": weights}


def images(seed=0):
  """Rows of the bytes of an image; one is padding."""
  tokens = np.random.default_rng(seed).integers(3, 259, (ROWS, 16), dtype=np.int32)
  return {"decoder_target_tokens": tokens, "decoder_loss_weights": np.repeat(
      np.array([[1], [1], [0], [1]], np.float32), 16, 1)}


def graph(seed=0):
  """Two rows of a stream, and two of a graph whose negatives are a tail and a head."""
  sequences = np.zeros((ROWS, LENGTH), np.int32)
  sequences[2:] = [[1, 2, 2, 3, 3, 4], [1, 1, 2, 3, 5, 0]]
  batch = batch_of(seed)
  return batch | {"decoder_sequences": sequences, "decoder_segment_ids": np.where(
      sequences.any(1, keepdims=True), sequences, batch["decoder_segment_ids"]),
      "decoder_loss_weights": batch["decoder_loss_weights"] * ((sequences > 0) | (np.arange(ROWS)[:, None] < 2))}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """An objective with a model of its kind and batches for it."""

  objective: Any
  model: Any = MODEL.lm
  params: Any = dataclasses.field(default_factory=lambda: MODEL.params)
  batch: Callable[[], Any] = batch_of

  def __call__(self, params, batch, memory):
    return self.objective(self.model, params, FROZEN, batch, memory, None)

  def memory(self, rows=ROWS):
    return self.objective.initial_memory(self.model, rows, MEMORY)

  @property
  def coefficients(self):
    return self.objective.coefficients(self.model)


OBJECTIVES = {"next_token": Case(NextToken()), "z_loss": Case(NextToken(z_loss=0.1)),
              "distillation": Case(Distillation("nowhere", weight=0.5, temperature=2.0, saved=SAVED)),
              "cached": Case(taught.objective(MODEL.config.vocab_size, 4, weight=0.5),
                             batch=lambda seed=0: taught.rows(TEACHER, batch_of(seed), 4)),
              "joint_embedding": Case(JointEmbedding(weight=0.5), batch=lambda seed=0: graph(seed)),
              "reconstruction": Case(Reconstruction(), CODEC, CODEC.init(jax.random.key(0)), images)}
every = pytest.mark.parametrize("case", OBJECTIVES.values(), ids=OBJECTIVES)


@functools.cache
def run(case):
  """(sums, memory) of a batch from an empty memory."""
  memory = case.memory()
  return tiny.jit(lambda params, batch: case(params, batch, memory))(case.params, case.batch())


@every
def test_its_coefficients_are_of_sums_that_it_has(case):
  sums, _ = run(case)
  assert set(case.coefficients) <= set(sums) and "loss" in sums
  assert all(np.isfinite(value) for value in metrics(sums).values())


@every
def test_its_memory_keeps_its_shape(case):
  _, memory = run(case)
  assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, case.memory())
  leaves = jax.tree.leaves(memory)
  assert any(np.abs(leaf).max() > 0 for leaf in leaves) or not leaves  # A codec has none.


@every
def test_rows_add_up(case):
  """The sums of two halves of a batch are those of the whole."""
  whole_sums, _ = run(case)
  half = lambda start: {name: rows[start:start + 2] for name, rows in case.batch().items()}
  memory = case.memory(2)
  of = tiny.jit(lambda params, batch: case(params, batch, memory)[0])
  first, second = of(case.params, half(0)), of(case.params, half(2))
  for name, expected in whole_sums.items():
    found = first[name] + second[name]
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-4)


@every
def test_microbatches_of_unequal_weights_are_one_batch(case):
  """Each sum is divided by its weight in the whole batch, whichever microbatch it comes from."""
  memory = case.memory()
  loss = lambda params, batch, memory, rng: case(params, batch, memory)
  take = lambda gradients: tiny.jit(functools.partial(gradients, loss, case.coefficients))(
      case.params, case.batch(), memory, jax.random.key(0))
  gradients, sums, after = take(microbatched(2))
  expected_gradients, expected_sums, expected_after = take(whole)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradients, expected_gradients)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), sums, expected_sums)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after, expected_after)


@pytest.mark.parametrize("case", [case for name, case in OBJECTIVES.items() if name != "reconstruction"],
                         ids=[name for name in OBJECTIVES if name != "reconstruction"])
def test_the_gradient_is_that_of_the_weighted_mean(case):
  """A small step against it lowers the mean by what it promises; not where it passes straight through rounding."""
  memory, batch = case.memory(), case.batch()

  def value(params):
    sums, _ = case(params, batch, memory)
    return weighted_mean(sums, case.coefficients)

  value_and_grad = tiny.jit(jax.value_and_grad(value))
  before, gradient = value_and_grad(case.params)
  step = jax.tree.map(lambda param, slope: param - 1e-3 * slope, case.params, gradient)
  norm = sum(float(jnp.sum(slope**2)) for slope in jax.tree.leaves(gradient))
  np.testing.assert_allclose(before - value_and_grad(step)[0], 1e-3 * norm, rtol=0.1)
