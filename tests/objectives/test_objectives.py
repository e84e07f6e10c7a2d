"""What every objective must do: a new one is one line of OBJECTIVES."""

from collections.abc import Callable
import dataclasses
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x import configuration
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.teacher_cache import IDS, LOG_PROBS
from gpt4x.experiment import Experiment
from gpt4x.media.codec_module import CodecConfig
from gpt4x.models.codec_model import CodecModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.distillation import Distillation
from gpt4x.objectives.group_relative import GroupRelative
from gpt4x.objectives.joint_embedding import JointEmbedding
from gpt4x.objectives.next_token import NextToken
from gpt4x.objectives.preference import Preference
from gpt4x.objectives.reconstruction import Reconstruction
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched, whole
from gpt4x.training.initial_state import state_shapes
from gpt4x.training.optimizers import adamw
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.objectives import answers, denoised, taught

LENGTH, MEMORY, ROWS = 6, 5, 4
MODEL = tiny.make(norm_position="pre", memory_length=MEMORY)
TEACHER = tiny.make(norm_position="pre", memory_length=MEMORY, embed_dim=12, num_layers=1)
DENOISED = tiny.make(norm_position="pre", memory_length=denoised.LENGTH, vocab_size=denoised.MARKS.vocab_size)
CODEC = CodecModel(CodecConfig("image", levels=(4, 3), patch=2, width=8, depth=1))
SAVED = SavedModel("Distillation.teacher", "nowhere", TEACHER.lm)
FROZEN = {"teacher": TEACHER.params, "reference": jax.tree.map(lambda leaf: leaf * 0.9, MODEL.params)}
REFERENCE = dict(reference="nowhere", saved=SavedModel("reference", "nowhere", MODEL.lm))
# What a batch says of each target.
OF_TARGETS = "decoder_target_tokens", "sampled_log_probs", IDS, LOG_PROBS


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
  # Examples have numbers of their own in each batch, as a RowMixture gives them.
  return batch | {"decoder_sequences": sequences, "decoder_segment_ids": np.where(
      sequences.any(1, keepdims=True), sequences + 10 * seed, batch["decoder_segment_ids"]),
      "decoder_loss_weights": batch["decoder_loss_weights"] * ((sequences > 0) | (np.arange(ROWS)[:, None] < 2))}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """An objective with a model of its kind and batches for it, of which so many rows, the first, go on from the last."""

  objective: Any
  model: Any = MODEL.lm
  params: Any = dataclasses.field(default_factory=lambda: MODEL.params)
  batch: Callable[..., Any] = batch_of
  rows: int = ROWS
  go_on: int = ROWS
  memory_length: int = MEMORY

  def __call__(self, params, batch, memory):
    return self.objective(self.model, params, FROZEN, batch, memory, None)

  def memory(self, rows=None):
    return self.objective.initial_memory(self.model, rows or self.rows, self.memory_length)

  @functools.cached_property
  def gradients(self):
    """(params, batch, memory) -> gradients, sums and the memory after, compiled once."""
    loss = lambda params, batch, memory, rng: self(params, batch, memory)
    return tiny.jit(lambda params, batch, memory: whole(
        loss, self.coefficients, params, batch, memory, jax.random.key(0)))

  @property
  def coefficients(self):
    return self.objective.coefficients(self.model)


OBJECTIVES = {"next_token": Case(NextToken()), "z_loss": Case(NextToken(z_loss=0.1)),
              "distillation": Case(Distillation("nowhere", weight=0.5, temperature=2.0, saved=SAVED)),
              "cached": Case(taught.objective(MODEL.config.vocab_size, 4, weight=0.5),
                             batch=lambda seed=0: taught.rows(TEACHER, batch_of(seed), 4)),
              "joint_embedding": Case(JointEmbedding(weight=0.5), batch=graph, go_on=2),
              "denoised": Case(NextToken(), DENOISED.lm, DENOISED.params, lambda seed=0: denoised.batches(3)[seed],
                               denoised.ROWS, denoised.GOES_ON, denoised.LENGTH),
              "preference": Case(Preference(likelihood=0.5, **REFERENCE), go_on=0, memory_length=0,
                                 batch=lambda seed=0: answers.pairs(ROWS, seed)),
              "group_relative": Case(GroupRelative(object(), kl=0.1, **REFERENCE), go_on=0, memory_length=0,
                                     batch=lambda seed=0: answers.drawn(MODEL, ROWS, seed, 0.5)),
              "reconstruction": Case(Reconstruction(), CODEC, CODEC.init(jax.random.key(0)), images, go_on=0)}
every = pytest.mark.parametrize("case", OBJECTIVES.values(), ids=OBJECTIVES)


def test_every_objective_that_gin_can_name_is_here():
  modules = [importlib.import_module(name) for name in configuration.MODULES if ".objectives." in name]
  named = {found for module in modules for found in vars(module).values()
           if isinstance(found, type) and found.__module__ == module.__name__ and hasattr(found, "coefficients")}
  assert {type(case.objective) for case in OBJECTIVES.values()} == named and len(named) >= 7


def test_likelihood_is_trained_unless_it_is_told_otherwise():
  assert Experiment(MODEL.lm, DatasetConfig("local_text_bytes", {"targets": 8}, 1)).objective == NextToken()


def without(batch, rows):
  """A batch in which nothing of some rows counts."""
  return {name: np.where(rows[:, None], 0, value).astype(value.dtype)
          if name in ("decoder_loss_weights", "decoder_sequences") else value for name, value in batch.items()}


@functools.cache
def run(case):
  """(gradients, sums, memory) of a batch from an empty memory."""
  return case.gradients(case.params, case.batch(), case.memory())


@every
def test_its_coefficients_are_of_sums_that_it_has(case):
  _, sums, _ = run(case)
  assert set(case.coefficients) <= set(sums) and "loss" in sums
  assert all(np.isfinite(value) for value in metrics(sums).values())


@every
def test_its_memory_keeps_its_shape(case):
  *_, memory = run(case)
  assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, case.memory())
  assert any(np.abs(leaf).max(initial=0) > 0 for leaf in jax.tree.leaves(memory)) == (case.go_on > 0)


@every
def test_memory_is_of_what_goes_on_alone(case):
  """Rows of a stream are told otherwise by what came before them, and examples are not."""
  _, _, memory = case.gradients(case.params, case.batch(0), case.memory())
  rows, batch = np.arange(case.rows), case.batch(1)
  losses = lambda kept: [case.gradients(case.params, without(batch, ~kept), past)[1]["loss"].value
                         for past in (case.memory(), memory)]
  empty, filled = losses(rows >= case.go_on)
  np.testing.assert_allclose(filled, empty, rtol=1e-5)
  if case.go_on:
    empty, filled = losses(rows < case.go_on)
    assert abs(filled - empty) > 1e-3 * abs(empty)


@every
def test_what_has_no_weight_is_not_learned(case):
  """Whatever the targets are that have none; and where none has any, nothing is."""
  batch, (gradients, sums, _) = case.batch(), run(case)
  unweighted = batch["decoder_loss_weights"] == 0
  other = {name: np.where(unweighted.reshape(*unweighted.shape, *[1] * (value.ndim - 2)), np.roll(value, 1, 1), value)
           if name in OF_TARGETS else value for name, value in batch.items()}
  assert any((other[name] != value).any() for name, value in batch.items())
  found = case.gradients(case.params, other, case.memory())
  jax.tree.map(np.testing.assert_array_equal, found[:2], (gradients, sums))
  nothing = case.gradients(case.params, without(batch, np.ones(case.rows, bool)), case.memory())
  for path, leaf in jax.tree_util.tree_leaves_with_path(nothing[0]):
    np.testing.assert_array_equal(leaf, 0, err_msg=jax.tree_util.keystr(path))
  assert nothing[1]["loss"].value == nothing[1]["loss"].weight == 0


@every
def test_rows_add_up(case):
  """The sums of two halves of a batch are those of the whole."""
  size, (_, whole_sums, _) = case.rows // 2, run(case)
  half = lambda start: {name: rows[start:start + size] for name, rows in case.batch().items()}
  memory = case.memory(size)
  of = tiny.jit(lambda params, batch: case(params, batch, memory)[0])
  first, second = of(case.params, half(0)), of(case.params, half(size))
  for name, expected in whole_sums.items():
    found = first[name] + second[name]
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-4)


@every
def test_microbatches_of_unequal_weights_are_one_batch(case):
  """Each sum is divided by its weight in the whole batch, whichever microbatch it comes from."""
  loss = lambda params, batch, memory, rng: case(params, batch, memory)
  gradients, sums, after = tiny.jit(functools.partial(microbatched(2), loss, case.coefficients))(
      case.params, case.batch(), case.memory(), jax.random.key(0))
  expected_gradients, expected_sums, expected_after = run(case)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradients, expected_gradients)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), sums, expected_sums)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), after, expected_after)


@every
def test_a_run_goes_on_exactly(case, tmp_path):
  """A checkpoint has all that a step starts from: the next gradient has the same bits, whatever is carried along."""
  step, mesh = TrainStep(case.model, case.objective, adamw(0.01)), Partitioner(data=1, num_devices=1)
  shapes = state_shapes(step, case.rows, case.memory_length, mesh, FROZEN)
  *_, memory = run(case)
  state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2, leaf.dtype), shapes.replace(frozen={})).replace(
      params=case.params, memory=memory)
  checkpoints = Checkpoints(str(tmp_path), CheckpointConfig())
  checkpoints.save(2, state, data_state={}, config_text="", seed=0, wait=True)
  restored = checkpoints.restore(shapes)[1]
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restored.replace(frozen={}), state)
  expected, found = (case.gradients(one.params, case.batch(1), one.memory) for one in (state, restored))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


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
