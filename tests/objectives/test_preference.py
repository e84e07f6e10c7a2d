"""Preferences: golden values, what a pair counts for, and that nothing depends on how a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.compression.low_rank import LowRank
from gpt4x.errors import UserError
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.preference import Preference, preference_loss
from gpt4x.training.gradients import microbatched, whole
from tests.models import tiny
from tests.objectives.answers import pairs


def test_golden_values():
  """Those of tunix's test: sums of normal draws as log-probabilities of four chosen and four rejected answers."""
  rng = np.random.default_rng(0)
  np.random.seed(0)
  policy, reference = (np.random.normal(0, 5, (8, 4)).sum(-1) for _ in range(2))
  del rng
  rewards = 0.1 * (policy - reference)
  margin = jnp.asarray(rewards[:4] - rewards[4:], jnp.float32)
  np.testing.assert_allclose(preference_loss(margin).mean(), 0.753059, atol=1e-5)
  np.testing.assert_allclose(preference_loss(margin, 0.3).mean(), 0.925447, atol=1e-5)


def objective(model, **options) -> Preference:
  return Preference("reference", saved=SavedModel("Preference.reference", "reference", model), **options)


def other_params(model):
  return jax.tree.map(lambda leaf: leaf * 0.9, tiny.random_params(model))


def test_a_pair_counts_as_its_sequences_do_apart():
  made = tiny.make()
  reference = other_params(made.lm)
  batch, one = pairs(), objective(made.lm, beta=0.3)
  sums, _ = one(made.lm, made.params, {"reference": reference}, batch, one.initial_memory(made.lm, 4, 0), None)
  found = metrics(sums)
  expected = {"chosen": [], "rejected": []}
  for row in range(4):
    for segment, name in ((1, "chosen"), (2, "rejected")):
      own = batch["decoder_segment_ids"][row] == segment
      tokens, targets, weights = (batch[f"decoder_{feature}"][row, own][None] for feature in (
          "input_tokens", "target_tokens", "loss_weights"))
      scores = [np.take_along_axis(np.asarray(made.log_probs(params, tokens, made.lm.initial_memory(1, 0))[0]),
                                   targets[..., None], -1)[..., 0] for params in (made.params, reference)]
      expected[name].append(0.3 * float(((scores[0] - scores[1]) * weights).sum()))
  chosen, rejected = (np.array(values) for values in expected.values())
  np.testing.assert_allclose(found["chosen_reward"], chosen.mean(), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found["rejected_reward"], rejected.mean(), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found["reward_accuracy"], (chosen > rejected).mean())
  np.testing.assert_allclose(found["loss"], np.log1p(np.exp(rejected - chosen)).mean(), rtol=1e-4)


def test_the_first_step_starts_from_the_logarithm_of_two():
  made = tiny.make()
  one = objective(made.lm)
  sums, _ = one(made.lm, made.params, {"reference": made.params}, pairs(), one.initial_memory(made.lm, 4, 0), None)
  np.testing.assert_allclose(metrics(sums)["loss"], np.log(2), atol=1e-6)
  assert metrics(sums)["reward_margin"] == 0


def test_rows_of_padding_count_for_nothing():
  made, batch = tiny.make(), pairs()
  one, frozen = objective(made.lm), {"reference": other_params(made.lm)}
  padded = {name: np.concatenate([value, np.zeros_like(value[:2])]) for name, value in batch.items()}
  found = [metrics(one(made.lm, made.params, frozen, rows, made.lm.initial_memory(len(rows[
      "decoder_target_tokens"]), 0), None)[0]) for rows in (batch, padded)]
  for name in found[0]:
    np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"likelihood": 0.5, "kind": "ipo"}])
def test_microbatches_with_unequal_weights_give_the_same_gradient(options):
  made, batch = tiny.make(), pairs(seed=3)
  one, frozen = objective(made.lm, **options), {"reference": other_params(made.lm)}
  loss = lambda params, batch, memory, rng: one(made.lm, params, frozen, batch, memory, rng)
  memory = one.initial_memory(made.lm, 4, 0)
  found = [tiny.jit(lambda params, take=take: take(
      loss, one.coefficients(made.lm), params, batch, memory, jax.random.key(0))[:2])(made.params)
           for take in (whole, microbatched(2))]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


def test_a_step_down_the_gradient_tells_the_answers_apart():
  made, batch = tiny.make(), pairs()
  one, frozen = objective(made.lm), {"reference": made.params}
  memory = one.initial_memory(made.lm, 4, 0)

  def loss(params):
    sums, _ = one(made.lm, params, frozen, batch, memory, None)
    return weighted_mean(sums, one.coefficients(made.lm)), metrics(sums)

  step = tiny.jit(jax.value_and_grad(loss, has_aux=True))
  (_, before), gradient = step(made.params)
  (_, after), _ = step(jax.tree.map(lambda leaf, slope: leaf - 0.05 * slope, made.params, gradient))
  assert after["reward_margin"] > before["reward_margin"] == 0 and after["loss"] < before["loss"]


def test_adapters_compare_with_their_base():
  """Without a second copy of it, and with a gradient that is not zero."""
  made = tiny.make()
  form = LowRank("base", rank=2, saved=SavedModel("LowRank.base", "base", made.lm))
  model = LanguageModel(made.config, form)
  adapters, frozen = model.init(jax.random.key(0)), {"base": made.params}
  one, batch = Preference(), pairs()
  assert one.refers_to_base and not one.frozen_models

  def loss(adapters):
    sums, _ = one(model, model.whole(adapters, frozen), frozen, batch, one.initial_memory(model, 4, 0), None)
    return sums["loss"].mean

  value, gradient = tiny.jit(jax.value_and_grad(loss))(adapters)
  np.testing.assert_allclose(value, np.log(2), atol=1e-6)
  assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-4


def test_what_does_not_fit_is_refused():
  made = tiny.make()
  with pytest.raises(UserError, match="Preference.reference = None, and the model has no base"):
    Preference()(made.lm, made.params, {}, pairs(), made.lm.initial_memory(4, 0), None)
  with pytest.raises(UserError, match="a stream cuts them"):
    Preference().initial_memory(made.lm, 4, 8)
  other = objective(tiny.make(vocab_size=13).lm)
  with pytest.raises(UserError, match="gives logits of 13 ids"):
    other(made.lm, made.params, {"reference": None}, pairs(), made.lm.initial_memory(4, 0), None)
  for options in ({"beta": 0.0}, {"smoothing": 0.5}, {"kind": "hinge"}, {"likelihood": -1.0}):
    with pytest.raises(UserError, match=f"Preference.{next(iter(options))} = "):
      Preference(**options)
