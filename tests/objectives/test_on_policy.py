"""Distillation on what the student draws itself: against forward passes over what was drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.models.sums import weighted_mean
from gpt4x.objectives.on_policy import continued
from tests.models import tiny
from tests.models.tiny import ROWS
from tests.objectives.test_distillation import (
  assert_same_sums,
  batch,
  LENGTH,
  MEMORY,
  objective,
  reference,
  STUDENT,
  TEACHER,
)

PROMPT = 2
DRAWN = [style for style in tiny.STYLES if style != "zeros"]


def filled(model, length, seed=3):
  """A memory that has seen a segment."""
  past = batch(length + 3, seed)
  documents = np.maximum(past["decoder_segment_ids"], 1)
  memory = model.lm.initial_memory(ROWS, length)
  return model.log_probs(model.params, past["decoder_input_tokens"], memory, documents)[1]


@functools.cache
def drawn(style):
  model = tiny.make(**{**tiny.STYLES[style], "memory_length": MEMORY})
  memory, rows = filled(model, MEMORY), batch()
  run = tiny.jit(lambda key, rows=rows: continued(model.lm, model.params, rows, memory, PROMPT, 4, key))
  return model, memory, rows, run


@pytest.mark.parametrize("style", DRAWN)
def test_it_draws_what_the_training_forward_says(style):
  """Each token is that of its key by the logits of one forward pass, through the memory, over all that came before."""
  model, memory, rows, draw = drawn(style)
  found = draw(jax.random.key(0))
  inputs, documents = found["decoder_input_tokens"], found["decoder_segment_ids"]
  np.testing.assert_array_equal(inputs[:, :PROMPT], rows["decoder_input_tokens"][:, :PROMPT])
  np.testing.assert_array_equal(inputs[:, PROMPT:], found["decoder_target_tokens"][:, PROMPT - 1:-1])
  np.testing.assert_array_equal(documents, np.concatenate(
      [rows["decoder_segment_ids"][:, :PROMPT], np.repeat(rows["decoder_segment_ids"][:, PROMPT - 1:PROMPT],
                                                          LENGTH - PROMPT, 1)], 1))
  assert memory.segment_ids.any()
  log_probs, _ = model.log_probs(model.params, inputs, memory, documents)
  first, others = jax.random.split(jax.random.key(0))
  keys = [first, *jax.random.split(others, LENGTH - PROMPT)]
  real = np.asarray(documents)[:, PROMPT - 1] > 0
  for i, key in enumerate(keys):
    expected = jax.random.categorical(key, log_probs[:, PROMPT - 1 + i])
    np.testing.assert_array_equal(found["decoder_target_tokens"][real, PROMPT - 1 + i], expected[real])


@pytest.mark.parametrize("style", ["paper", "modern"])
def test_a_projected_memory_is_the_memory(style):
  """Behind empty positions, too; what padding sees is nobody's."""
  model, memory, rows, _ = drawn(style)
  of = lambda memory: (rows["decoder_segment_ids"] > 0)[..., None] * model.log_probs(
      model.params, rows["decoder_input_tokens"], memory, rows["decoder_segment_ids"])[0]
  projected = tiny.jit(lambda memory: model.lm.project_memory(model.params, memory).after_empty(4))(memory)
  np.testing.assert_allclose(of(projected), of(memory), rtol=1e-4, atol=1e-4)


def test_another_key_draws_otherwise_and_as_often_as_the_model_says():
  model, memory, rows, _ = drawn("modern")
  run = tiny.jit(jax.vmap(lambda key: continued(
      model.lm, model.params, rows, memory, PROMPT, None, key)["decoder_target_tokens"][:, PROMPT - 1]))
  tokens = np.asarray(run(jax.random.split(jax.random.key(5), 3000)))
  log_probs, _ = model.log_probs(model.params, rows["decoder_input_tokens"], memory, rows["decoder_segment_ids"])
  expected = np.exp(log_probs[0, PROMPT - 1])
  np.testing.assert_allclose(np.bincount(tokens[:, 0], minlength=len(expected)) / 3000, expected, atol=0.04)


def test_weights_end_where_a_sample_does_and_padding_has_none():
  _, _, rows, draw = drawn("modern")
  rows = rows | {"decoder_segment_ids": np.array([[1] * LENGTH, [1, 1, 2, 2, 3, 3], [1, 0, 0, 0, 0, 0]], np.int32)}
  for seed in range(6):
    found = draw(jax.random.key(seed), rows)
    for row, (targets, weights) in enumerate(zip(*(np.asarray(found[name]) for name in (
        "decoder_target_tokens", "decoder_loss_weights")))):
      expected, ended = [0.0] * (PROMPT - 1), row == 2
      for token in targets[PROMPT - 1:]:
        expected.append(0.0 if ended else 1.0)
        ended = ended or token == 4
      assert weights.tolist() == expected


# The objective.


@pytest.fixture(name="memories", scope="module")
def _memories():
  return {"student": filled(STUDENT, MEMORY), "teacher": filled(TEACHER, 7)}


def samples(memories):
  """What is drawn by the key of `run`."""
  return tiny.jit(lambda key: continued(STUDENT.lm, STUDENT.params, batch(), memories["student"], PROMPT, 4, key))(
      jax.random.split(jax.random.key(0), 3)[1])


def run(one, memories, key=0, rows=None):
  def value(params, key):
    sums, memory = one(STUDENT.lm, params, {"teacher": TEACHER.params}, rows or batch(), memories, key)
    return weighted_mean(sums, one.coefficients(STUDENT.lm)), (sums, memory)

  rng = None if key is None else jax.random.key(key)
  (_, (sums, memory)), slopes = tiny.jit(jax.value_and_grad(value, has_aux=True))(STUDENT.params, rng)
  return sums, memory, slopes


def test_the_divergence_is_on_what_the_student_draws(memories, monkeypatch):
  """The mean of both models' over the samples, by float64; all else is of the data, what is remembered too."""
  student = tiny.make(**{**STUDENT.config.__dict__, "loss_chunk": 2})
  monkeypatch.setattr(STUDENT.lm, "config", student.config)
  options = dict(divergence="jsd", beta=0.3, temperature=2.0)
  sums, memory, slopes = run(objective(on_policy=1.0, prompt_length=PROMPT, eos_id=4, **options), memories)
  plain, plain_memory, plain_slopes = run(objective(**options), memories)
  rows = samples(memories)
  logits = [np.float64(model.log_probs(model.params, rows["decoder_input_tokens"], memories[name],
                                       rows["decoder_segment_ids"])[0])
            for name, model in (("student", STUDENT), ("teacher", TEACHER))]
  weights = np.float64(rows["decoder_loss_weights"])
  expected = np.sum(weights * reference(logits[0] / 2, logits[1] / 2, "jsd", 0.3)) / weights.sum()
  found = sums.pop("distillation")
  np.testing.assert_allclose(found.value / found.weight, expected, rtol=1e-4)
  share = sums.pop("on_policy")
  assert share.value == share.weight == plain["loss"].weight
  assert found.weight == plain.pop("distillation").weight
  assert_same_sums(sums, plain)
  jax.tree.map(np.testing.assert_array_equal, memory, plain_memory)
  assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(*map(jax.tree.leaves, (slopes, plain_slopes))))


def test_its_gradient_takes_the_samples_as_they_are(memories):
  """That of the same divergence on rows that are given: nothing goes through the draws."""
  _, _, slopes = run(objective(on_policy=1.0, prompt_length=PROMPT, eos_id=4, likelihood=0.0), memories)
  _, _, expected = run(objective(likelihood=0.0), memories, key=None, rows=samples(memories))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), slopes, expected)


def test_a_share_of_the_steps_is_on_samples(memories):
  """The others, and an evaluation, are as without any."""
  one = objective(on_policy=0.3, prompt_length=PROMPT)
  of = tiny.jit(jax.vmap(lambda key: one(STUDENT.lm, STUDENT.params, {"teacher": TEACHER.params}, batch(), memories,
                                         key)[0]))
  sums, plain = of(jax.random.split(jax.random.key(1), 200)), run(objective(), memories)[0]
  sampled = sums["on_policy"].value / sums["on_policy"].weight
  assert set(np.unique(sampled)) == {0.0, 1.0} and abs(sampled.mean() - 0.3) < 0.1
  np.testing.assert_allclose(sums["distillation"].value[sampled == 0], plain["distillation"].value, rtol=1e-5)
  assert np.std(sums["distillation"].value[sampled == 1]) > 0
  evaluated, _, _ = run(one, memories, key=None)
  assert_same_sums(evaluated, plain)


def test_half_of_a_row_is_its_prompt_by_default():
  model, memory, rows, _ = drawn("modern")
  found = tiny.jit(lambda key: continued(model.lm, model.params, rows, memory, None, None, key))(jax.random.key(0))
  assert jnp.argmax(found["decoder_loss_weights"][0]) == LENGTH // 2 - 1


@pytest.mark.parametrize("options, words", [
    ({"on_policy": 1.5}, "Distillation.on_policy = 1.5 must be a share from 0 to 1"),
    ({"prompt_length": 0}, "Distillation.prompt_length = 0 must be at least 1, or None"),
])
def test_a_wrong_value(options, words):
  with pytest.raises(UserError, match=words):
    objective(**options)


def test_what_cannot_be_continued(memories):
  one = objective(on_policy=1.0, prompt_length=LENGTH)
  with pytest.raises(UserError, match=f"prompt_length = {LENGTH} leaves nothing of rows of {LENGTH} tokens to draw"):
    run(one, memories)
  with pytest.raises(UserError, match="those of 'prefix_lm' have many"):
    run(objective(on_policy=1.0), memories, rows=batch() | {"decoder_causal_attention": np.ones((ROWS, LENGTH), int)})
  zeros = tiny.make(memory_length=MEMORY, empty_memory="zeros")
  with pytest.raises(UserError, match="on_policy = 1.0 draws from a memory with room to spare"):
    one.initial_memory(zeros.lm, ROWS, MEMORY)
