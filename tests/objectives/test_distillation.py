"""Distillation against float64 references; tests/objectives/test_objectives.py holds what every objective must do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.models.codec_model import CodecModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.sums import weighted_mean
from gpt4x.objectives.distillation import Distillation, divergence
from gpt4x.objectives.next_token import NextToken
from tests.models import tiny
from tests.models.tiny import ROWS

LENGTH, MEMORY = 6, 5
STUDENT = tiny.make(norm_position="pre", memory_length=MEMORY)
# Of another shape, kind of positions, and reach.
TEACHER = tiny.make(norm_position="pre", memory_length=7, embed_dim=12, num_layers=1, positions="rotary")


def objective(teacher=TEACHER, **options):
  return Distillation("nowhere", saved=SavedModel("Distillation.teacher", "nowhere", teacher.lm), **options)


def batch(length=LENGTH, seed=0):
  """Several documents a row, one row with padding, and weights between 0 and 1."""
  rng, documents = np.random.default_rng(seed), tiny.random_documents(length, seed)
  tokens = tiny.random_tokens(STUDENT.config, length + 1, seed)
  return {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
          "decoder_segment_ids": documents,
          "decoder_loss_weights": np.float32(rng.random((ROWS, length)) * (documents > 0))}


def part(rows, start, stop):
  return {name: one[:, start:stop] for name, one in rows.items()}


class Pair:
  """A student with its objective: called with a batch, it gives the sums and the memory."""

  def __init__(self, one, student=STUDENT, teacher=TEACHER):
    self._objective, self._student = one, student
    self._run = tiny.jit(lambda rows, memory: one(
        student.lm, student.params, {"teacher": teacher.params}, rows, memory, None))

  def __call__(self, rows, memory=None):
    length = self._student.config.memory_length
    return self._run(rows, self._objective.initial_memory(self._student.lm, ROWS, length) if memory is None else memory)


def assert_same_sums(found, expected, rtol=1e-5):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6), dict(found), dict(expected))


# The divergence.


def softmax(logits):
  exps = np.exp(logits - logits.max(-1, keepdims=True))
  return exps / exps.sum(-1, keepdims=True)


def reference(student, teacher, kind, beta):
  """By the definitions, in float64."""
  ours, theirs = softmax(np.float64(student)), softmax(np.float64(teacher))
  kl = lambda p, q: np.sum(p * np.log(p / q), -1)
  if kind == "jsd":
    mixture = beta * theirs + (1 - beta) * ours
    return beta * kl(theirs, mixture) + (1 - beta) * kl(ours, mixture)
  return kl(theirs, ours) if kind == "forward" else kl(ours, theirs)


KINDS = [("forward", 0.5), ("reverse", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9)]


@pytest.mark.parametrize("kind, beta", KINDS)
def test_a_divergence_and_its_gradient(kind, beta):
  rng = np.random.default_rng(0)
  student, teacher = (2 * rng.normal(size=(3, 4, 7)).astype(np.float32) for _ in range(2))
  found = divergence(student, teacher, kind, beta)
  np.testing.assert_allclose(found, reference(student, teacher, kind, beta), rtol=2e-5, atol=1e-6)
  slopes = jax.grad(lambda logits: divergence(logits, teacher, kind, beta).sum())(jnp.asarray(student))
  direction, step = rng.normal(size=student.shape), 1e-5
  ahead, behind = (reference(student + sign * step * direction, teacher, kind, beta).sum() for sign in (1, -1))
  np.testing.assert_allclose(np.sum(slopes * direction), (ahead - behind) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_a_divergence_of_what_is_almost_certain_is_finite(kind, beta):
  """Probabilities of e^-500 are 0 in float32; their logarithms are not."""
  student, teacher = jnp.array([[500.0, 0.0, 0.0]]), jnp.array([[0.0, 500.0, 0.0]])
  value, slope = jax.value_and_grad(lambda logits: divergence(logits, teacher, kind, beta).sum())(student)
  assert np.isfinite(value) and np.isfinite(slope).all() and value > 0.3
  assert abs(divergence(student, student, kind, beta)) < 1e-7


# The objective.


@pytest.mark.parametrize("kind, temperature", [("forward", 1.0), ("reverse", 2.0), ("jsd", 0.5)])
def test_its_sums(kind, temperature):
  """The student's likelihood as `NextToken` has it, and the divergence of both models' log-probabilities."""
  one, rows = objective(divergence=kind, temperature=temperature, beta=0.3, weight=0.25, z_loss=0.1), batch()
  sums, _ = Pair(one)(rows)
  plain, _ = NextToken()(STUDENT.lm, STUDENT.params, {}, rows, STUDENT.lm.initial_memory(ROWS, MEMORY), None)
  assert_same_sums({name: sums[name] for name in plain}, plain)
  ours, theirs = (np.float64(model.log_probs(
      model.params, rows["decoder_input_tokens"], model.lm.initial_memory(ROWS), rows["decoder_segment_ids"])[0])
      for model in (STUDENT, TEACHER))
  expected = reference(ours / temperature, theirs / temperature, kind, 0.3)
  weights = rows["decoder_loss_weights"]
  np.testing.assert_allclose(sums["distillation"].value, np.sum(weights * expected), rtol=1e-4)
  np.testing.assert_allclose(sums["distillation"].weight, weights.sum(), rtol=1e-6)
  assert one.coefficients(STUDENT.lm) == {"loss": 1.0, "z_loss": 0.1, "distillation": 0.25 * temperature**2}
  assert objective(likelihood=0.0).coefficients(STUDENT.lm) == {"distillation": 1.0}


def test_a_student_that_is_its_teacher_has_nothing_to_learn_of_it():
  one = objective(STUDENT, hidden={"final": "final", "layers.0.mlp": "layers.0.mlp"}, likelihood=0.0)
  memory = one.initial_memory(STUDENT.lm, ROWS, MEMORY)

  def value(params):
    sums, _ = one(STUDENT.lm, params, {"teacher": STUDENT.params}, batch(), memory, None)
    return weighted_mean(sums, one.coefficients(STUDENT.lm)), sums

  (loss, sums), slopes = tiny.jit(jax.value_and_grad(value, has_aux=True))(STUDENT.params)
  assert loss < 1e-6 and sums["distillation"].value < 1e-5 and sums["hidden_error"].value == 0
  assert all(np.abs(leaf).max() < 1e-5 for leaf in jax.tree.leaves(slopes))


def test_hidden_states_are_compared_by_name():
  student = tiny.make(norm_position="pre", memory_length=MEMORY, embed_dim=12, mlp_dim=10)
  pairs = {"layers.1.output": "layers.0.output", "final": "embedding"}
  one, rows = objective(hidden=pairs, hidden_weight=3.0), batch()
  sums, _ = Pair(one, student)(rows)
  outputs = [model.lm.forward(model.params, rows["decoder_input_tokens"], model.lm.initial_memory(ROWS),
                              rows["decoder_segment_ids"], capture=names)
             for model, names in ((student, pairs.keys()), (TEACHER, pairs.values()))]
  errors = [np.mean(np.square(outputs[0].captures[ours] - outputs[1].captures[theirs]), -1)
            for ours, theirs in pairs.items()]
  expected = np.sum(rows["decoder_loss_weights"] * np.mean(errors, 0))
  np.testing.assert_allclose(sums["hidden_error"].value, expected, rtol=1e-4)
  assert one.coefficients(student.lm)["hidden_error"] == 3.0


def test_the_teacher_has_no_gradient_and_no_dropout():
  teacher = tiny.make(**{**TEACHER.config.__dict__, "dropout_rate": 0.5})
  one = objective(teacher, hidden=None)
  memory = one.initial_memory(STUDENT.lm, ROWS, MEMORY)

  def value(frozen, rng):
    sums, _ = one(STUDENT.lm, STUDENT.params, frozen, batch(), memory, rng)
    return weighted_mean(sums, one.coefficients(STUDENT.lm))

  of = tiny.jit(jax.value_and_grad(value))
  frozen = {"teacher": TEACHER.params}
  found, slopes = of(frozen, jax.random.key(0))
  assert found == of(frozen, jax.random.key(1))[0]
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_one_segment_is_two_through_both_memories():
  """Documents of which some begin within a segment, so that both models forget where they do."""
  long = batch(LENGTH + 4)
  student, teacher = (tiny.make(**{**one.config.__dict__, "memory_length": 12}) for one in (STUDENT, TEACHER))
  run = Pair(objective(teacher), student)
  whole, after = run(long)
  first, memory = run(part(long, 0, LENGTH))
  second, memory = run(part(long, LENGTH, LENGTH + 4), memory)
  assert_same_sums({name: first[name] + second[name] for name in whole}, whole, rtol=1e-4)
  for name, past in memory.items():
    real = (past.segment_ids > 0)[..., None]  # What padding has of the past is nobody's.
    np.testing.assert_allclose(real * past.layers, real * after[name].layers, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(past.segment_ids, after[name].segment_ids)
  assert memory["teacher"].length == 12 and memory["teacher"].layers.shape[0] == 1


def test_a_packed_row_equals_its_documents_apart():
  """For both models: what lies before a document changes nothing in it."""
  rows = batch(LENGTH)
  rows["decoder_segment_ids"] = np.repeat([[1, 1, 1, 2, 2, 2]], ROWS, 0).astype(np.int32)
  run = Pair(objective())
  _, memory = run(batch(LENGTH, seed=1))
  assert all(np.any(past.layers) for past in memory.values())
  memory = {name: past.replace(segment_ids=np.full_like(past.segment_ids, 9)) for name, past in memory.items()}
  packed, _ = run(rows, memory)
  apart = [run(part(rows, start, start + 3))[0] for start in (0, 3)]
  assert_same_sums({name: apart[0][name] + apart[1][name] for name in packed}, packed, rtol=1e-4)


def test_each_memory_has_its_own_length():
  one = objective(tiny.make(**{**TEACHER.config.__dict__, "eval_memory_length": 9}))
  lengths = lambda *arguments: [memory.length for memory in one.initial_memory(STUDENT.lm, 2, *arguments).values()]
  assert lengths(MEMORY) == [MEMORY, 7]
  assert lengths(MEMORY, True) == [MEMORY, 9]
  assert lengths(0) == [0, 0]  # Of data that carries none.


# Chunks.


@pytest.mark.parametrize("style, taught", [("modern", "paper"), ("paper", "adaptive"), ("adaptive", "modern")])
def test_chunks_are_the_whole(style, taught):
  """Values, gradients and what the models are: adaptive ones too. Five positions are no whole number of chunks."""
  changes = {**tiny.STYLES[style], "memory_length": MEMORY}
  teacher = tiny.make(**{**tiny.STYLES[taught], "memory_length": 3, "embed_dim": 16})
  one, rows = objective(teacher, z_loss=0.1), batch(5) | {"decoder_target_modality": np.zeros((ROWS, 5), np.int32)}

  def of(chunk):
    student = tiny.make(**{**changes, "loss_chunk": chunk})
    memory = one.initial_memory(student.lm, ROWS, MEMORY)

    def value(params):
      sums, _ = one(student.lm, params, {"teacher": teacher.params}, rows, memory, None)
      return weighted_mean(sums, one.coefficients(student.lm)), sums

    return tiny.jit(jax.value_and_grad(value, has_aux=True))(student.params)

  ((loss, sums), slopes), ((whole, whole_sums), whole_slopes) = of(2), of(None)
  np.testing.assert_allclose(loss, whole, rtol=1e-5)
  assert_same_sums(sums, whole_sums)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), slopes, whole_slopes)


@pytest.mark.parametrize("chunk, exist", [(3, False), (None, True)])
def test_with_chunks_no_logits_of_a_segment_exist(chunk, exist):
  """In neither pass: no array is as large; the vocabulary is large enough for that to be told."""
  sizes = dict(vocab_size=997, memory_length=0, norm_position="pre")
  student, teacher = tiny.make(**sizes, loss_chunk=chunk), tiny.make(**sizes, embed_dim=12)
  one, length = objective(teacher), 12
  rows = {**batch(length), "decoder_input_tokens": np.ones((ROWS, length), np.int32)}
  memory = one.initial_memory(student.lm, ROWS, 0)

  def value(params):
    sums, _ = one(student.lm, params, {"teacher": teacher.params}, rows, memory, None)
    return weighted_mean(sums, one.coefficients(student.lm))

  found = set()

  def collect(jaxpr):
    for equation in jaxpr.eqns:
      found.update(variable.aval.size for variable in equation.outvars)
      for inner in jax.core.jaxprs_in_params(equation.params):
        collect(inner)

  collect(jax.make_jaxpr(jax.grad(value))(student.params).jaxpr)
  assert (max(found) >= ROWS * length * 997) == exist


# What cannot be.


@pytest.mark.parametrize("options, words", [
    ({"divergence": "sideways"}, "Distillation.divergence = 'sideways' must be one of forward, reverse, jsd"),
    ({"dtype": "int8"}, "Distillation.dtype = 'int8' must be one of auto, float32, bfloat16"),
    ({"beta": 1.0}, "Distillation.beta = 1.0 must be between 0 and 1"),
    ({"temperature": 0.0}, "Distillation.temperature = 0.0 must be above 0"),
    ({"weight": -1.0}, "Distillation.weight = -1.0 must be 0 or more"),
    ({"step": -1}, "Distillation.step = -1 must be a step from 0 on"),
])
def test_a_wrong_value(options, words):
  with pytest.raises(UserError, match=words):
    objective(**options)


@pytest.mark.parametrize("changes, options, words", [
    ({"vocab_size": 13}, {}, "Distillation.teacher = 'nowhere' gives logits of 11 ids: make TransformerConfig.vocab"),
    ({}, {"hidden": {"final": "final"}}, "compares hidden states of width 8 with a teacher's of 12: leave it out"),
    ({}, {"hidden": {"layers.2.mlp": "final"}}, "in the student there is no activation 'layers.2.mlp' to capture: use"),
    ({}, {"hidden": {"final": "last"}}, "in the teacher there is no activation 'last' to capture: use"),
])
def test_models_that_cannot_be_compared(changes, options, words):
  student = tiny.make(**{**STUDENT.config.__dict__, **changes})
  with pytest.raises(UserError, match=words) as caught:
    objective(**options).initial_memory(student.lm, ROWS, MEMORY)
  assert "\n" not in str(caught.value)


def test_a_codec_has_no_teacher():
  with pytest.raises(UserError, match="the model to be trained is a CodecModel: choose another objective"):
    objective().initial_memory(CodecModel.__new__(CodecModel), ROWS, 0)


def test_other_models_may_take_the_teachers_place():
  one = objective()
  other = dataclasses.replace(one.frozen_models["teacher"], model=STUDENT.lm)
  assert one.with_frozen_models({"teacher": other}).frozen_models == {"teacher": other}
