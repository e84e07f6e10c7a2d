"""Distillation from what was written down of a teacher, against float64 references and the teacher itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.data.teacher_cache import IDS, LOG_PROBS
from gpt4x.errors import UserError
from gpt4x.inference.teaching import top_outcomes
from gpt4x.models.codec_model import CodecModel
from gpt4x.models.sums import weighted_mean
from gpt4x.objectives.cached_distillation import CachedDistillation, outcomes
from gpt4x.objectives.distillation import divergence
from gpt4x.objectives.next_token import NextToken
from tests.models import tiny
from tests.models.tiny import ROWS
from tests.objectives import taught
from tests.objectives.test_distillation import batch, KINDS, MEMORY, reference, STUDENT, TEACHER
from tests.objectives.test_distillation import objective as live

V = STUDENT.config.vocab_size


def coarse(probs, ids):
  """The probabilities of ids and of all others together, in float64."""
  known = np.take_along_axis(probs, ids, -1)
  mask = np.ones_like(probs)
  np.put_along_axis(mask, ids, 0.0, -1)
  return np.concatenate([known, (mask * probs).sum(-1, keepdims=True)], -1)


def softmax(logits):
  exps = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
  return exps / exps.sum(-1, keepdims=True)


def pair(seed=0, shape=(3, 4, 9), scale=2.0):
  rng = np.random.default_rng(seed)
  return [scale * rng.normal(size=shape).astype(np.float32) for _ in range(2)]


# Outcomes.


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_outcomes_are_the_probabilities_of_ids_and_of_the_rest(scale):
  """To float32's relative precision, though the rest be e^-60."""
  logits, _ = pair(scale=scale)
  ids = np.argsort(-logits, -1)[..., :3]
  np.testing.assert_allclose(outcomes(logits, ids), np.log(coarse(softmax(logits), ids)), rtol=2e-5, atol=1e-6)
  found, log_probs = top_outcomes(jnp.asarray(logits), 3)
  np.testing.assert_array_equal(found, ids)
  np.testing.assert_array_equal(log_probs, outcomes(logits, ids))


@pytest.mark.parametrize("kind, beta", KINDS)
def test_the_divergence_of_outcomes_and_its_gradient(kind, beta):
  student, teacher = pair()
  ids = np.argsort(-teacher, -1)[..., :3]
  theirs = outcomes(teacher, ids)
  of = lambda logits: divergence(outcomes(logits, ids), theirs, kind, beta)
  exact = lambda logits: reference(np.log(coarse(softmax(logits), ids)), np.log(coarse(softmax(teacher), ids)), kind,
                                   beta)
  np.testing.assert_allclose(of(student), exact(student), rtol=2e-5, atol=1e-6)
  slopes, step = jax.grad(lambda logits: of(logits).sum())(jnp.asarray(student)), 1e-5
  direction = np.random.default_rng(1).normal(size=student.shape)
  ahead, behind = (exact(np.float64(student) + sign * step * direction).sum() for sign in (1, -1))
  np.testing.assert_allclose(np.sum(slopes * direction), (ahead - behind) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_it_is_at_most_the_whole_and_grows_to_it(kind, beta):
  """What is lost by fewer outcomes is never negative; with all ids nothing is, in value and gradient."""
  student, teacher = pair()
  whole, slopes = jax.value_and_grad(lambda logits: divergence(logits, teacher, kind, beta).sum())(jnp.asarray(student))
  found = []
  for top_k in (1, 2, 5, 9):
    ids, theirs = top_outcomes(jnp.asarray(teacher), top_k)
    value, slope = tiny.jit(jax.value_and_grad(
        lambda logits, ids=ids, theirs=theirs: divergence(outcomes(logits, ids), theirs, kind, beta).sum()))(
            jnp.asarray(student))
    found.append(value)
  assert (np.diff(found) > 0).all() and found[0] < 0.9 * whole
  np.testing.assert_allclose(found[-1], whole, rtol=1e-5)
  np.testing.assert_allclose(slope, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind, beta", KINDS)
@pytest.mark.parametrize("top_k", [1, 3])
def test_what_is_almost_certain_is_finite(kind, beta, top_k):
  teacher = jnp.array([[500.0, 0.0, 0.0]])
  ids, theirs = top_outcomes(teacher, top_k)
  for student in (teacher[:, ::-1], teacher):
    kept = jnp.maximum(theirs.astype(jnp.float16).astype(jnp.float32), -1e30)  # What is left of all ids is -inf there.
    value, slope = jax.value_and_grad(lambda logits, kept=kept: divergence(outcomes(logits, ids), kept, kind, beta).sum(
        ))(student)
    assert np.isfinite(value) and np.isfinite(slope).all()


# The objective.


def run(one, rows, student=STUDENT, frozen=None):
  memory = one.initial_memory(student.lm, ROWS, MEMORY)

  def value(params):
    sums, _ = one(student.lm, params, frozen or {}, rows, memory, None)
    return weighted_mean(sums, one.coefficients(student.lm)), sums

  (_, sums), slopes = tiny.jit(jax.value_and_grad(value, has_aux=True))(student.params)
  return sums, slopes


@pytest.mark.parametrize("kind, temperature, chunk", [("forward", 1.0, None), ("reverse", 2.0, 4), ("jsd", 0.5, 4)])
def test_with_all_ids_it_is_the_teacher_itself(kind, temperature, chunk):
  """All sums, and the gradient of their weighted mean."""
  options = dict(divergence=kind, beta=0.3, weight=0.25, likelihood=0.5, z_loss=0.1)
  student = tiny.make(**{**STUDENT.config.__dict__, "loss_chunk": chunk})
  expected, expected_slopes = run(live(temperature=temperature, **options), batch(), student,
                                  {"teacher": TEACHER.params})
  one = taught.objective(V, V, temperature, **options)
  found, slopes = run(one, taught.rows(TEACHER, batch(), V, temperature), student)
  assert found.keys() == expected.keys()
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), (dict(found), slopes),
               (dict(expected), expected_slopes))
  assert one.coefficients(student.lm) == live(temperature=temperature, **options).coefficients(student.lm)


def test_half_precision_is_close():
  one = taught.objective(V, 4)
  rows = taught.rows(TEACHER, batch(), 4)
  sums, _ = run(one, rows)
  halves, _ = run(one, rows | {LOG_PROBS: np.float16(rows[LOG_PROBS])})
  np.testing.assert_allclose(halves["distillation"].value, sums["distillation"].value, rtol=1e-3)


def test_a_split_that_was_not_taught_has_the_likelihood_alone():
  sums, _ = run(taught.objective(V, 4, weight=0.0), batch())
  plain, _ = NextToken()(STUDENT.lm, STUDENT.params, {}, batch(), STUDENT.lm.initial_memory(ROWS, MEMORY), None)
  assert sums.keys() == plain.keys()
  np.testing.assert_allclose(sums["loss"].value, plain["loss"].value, rtol=1e-5)


@pytest.mark.parametrize("options, words", [
    ({"divergence": "sideways"}, "CachedDistillation.divergence = 'sideways' must be one of forward, reverse, jsd"),
    ({"beta": 0.0}, "CachedDistillation.beta = 0.0 must be between 0 and 1"),
    ({"weight": -1.0}, "CachedDistillation.weight = -1.0 must be 0 or more"),
])
def test_a_wrong_value(options, words):
  with pytest.raises(UserError, match=words):
    CachedDistillation("nowhere", **options)


def test_models_that_cannot_be_compared():
  with pytest.raises(UserError, match="is of a teacher of 13 ids: make TransformerConfig.vocab_size = 11 as many"):
    taught.objective(13, 4).initial_memory(STUDENT.lm, ROWS, MEMORY)
  with pytest.raises(UserError, match="is a CodecModel: choose another objective"):
    taught.objective(13, 4).initial_memory(CodecModel.__new__(CodecModel), ROWS, 0)
  assert IDS in taught.rows(TEACHER, batch(), 2)
