"""Policy gradients: values by the paper's formula, and that nothing depends on how a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.group_relative import GroupRelative, policy_loss
from gpt4x.training.gradients import microbatched, whole
from tests.models import tiny
from tests.objectives.answers import drawn

ROWS = 4


@pytest.mark.parametrize("mean", ["answers", "tokens"])
def test_the_loss_is_that_of_the_paper(mean):
  """In NumPy, with ratios some of which are cut off."""
  made = tiny.make()
  batch = drawn(made, shift=0.5)
  one = GroupRelative(object(), clip=(0.2, 0.3), mean=mean)
  found = metrics(one(made.lm, made.params, {}, batch, one.initial_memory(made.lm, ROWS, 0), None)[0])
  log_probs = np.take_along_axis(np.asarray(made.log_probs(
      made.params, batch["decoder_input_tokens"], made.lm.initial_memory(ROWS, 0))[0], np.float64),
      batch["decoder_target_tokens"][..., None], -1)[..., 0]
  ratio, advantages = np.exp(log_probs - batch["sampled_log_probs"]), batch["advantages"][:, None]
  each = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.3) * advantages)
  weights = batch["decoder_loss_weights"]
  expected = (each * weights).sum(1) / weights.sum(1) if mean == "answers" else each[weights > 0]
  np.testing.assert_allclose(found["loss"], -expected.mean(), rtol=1e-4)
  assert 0 < found["clipped"] < 1
  np.testing.assert_allclose(found["answer_tokens"], weights.sum(1).mean())
  np.testing.assert_allclose(found["reward"], batch["rewards"].mean(), rtol=1e-5)


def test_clipping_cuts_the_gradient_that_would_go_further():
  """Above for what is to become likelier, below for what is not."""
  slope = jax.grad(lambda x, a: policy_loss(x[None, None], jnp.zeros((1, 1)), a[None, None], (0.2, 0.2))[0].sum())
  for ratio, advantage, moves in ((1.0, 1.0, True), (1.3, 1.0, False), (0.7, 1.0, True), (1.3, -1.0, True),
                                  (0.7, -1.0, False)):
    found = float(slope(jnp.log(ratio), jnp.asarray(advantage)))
    assert found == pytest.approx(-ratio * advantage if moves else 0.0, rel=1e-5, abs=1e-7), (ratio, advantage)


def test_what_the_model_drew_itself_has_the_plain_policy_gradient():
  """Advantage times the gradient of the log-likelihood: REINFORCE."""
  made = tiny.make()
  batch, one = drawn(made), GroupRelative(object(), mean="tokens")
  memory = one.initial_memory(made.lm, ROWS, 0)
  weights = batch["decoder_loss_weights"]

  def ours(params):
    return weighted_mean(one(made.lm, params, {}, batch, memory, None)[0], one.coefficients(made.lm))

  def plain(params):
    log_probs, _ = made.lm.log_probs(params, batch["decoder_input_tokens"], memory)
    own = jnp.take_along_axis(log_probs, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    return -jnp.sum(own * weights * batch["advantages"][:, None]) / weights.sum()

  found = [tiny.jit(jax.grad(function))(made.params) for function in (ours, plain)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *found)


def test_the_divergence_from_the_reference():
  made = tiny.make()
  one = GroupRelative(object(), kl=0.1, reference="there", saved=SavedModel("reference", "there", made.lm))
  batch, memory = drawn(made), one.initial_memory(made.lm, ROWS, 0)
  same = one(made.lm, made.params, {"reference": made.params}, batch, memory, None)[0]
  np.testing.assert_allclose(same["kl"].mean, 0, atol=1e-7)
  other = jax.tree.map(lambda leaf: leaf * 0.9, made.params)
  assert one(made.lm, made.params, {"reference": other}, batch, memory, None)[0]["kl"].mean > 1e-3
  assert one.coefficients(made.lm)["kl"] == 0.1


@pytest.mark.parametrize("mean", ["answers", "tokens"])
def test_microbatches_with_unequal_weights_give_the_same_gradient(mean):
  made = tiny.make()
  batch, one = drawn(made, shift=0.3), GroupRelative(object(), mean=mean)
  loss = lambda params, batch, memory, rng: one(made.lm, params, {}, batch, memory, rng)
  memory = one.initial_memory(made.lm, ROWS, 0)
  found = [tiny.jit(lambda params, take=take: take(
      loss, one.coefficients(made.lm), params, batch, memory, jax.random.key(0))[:2])(made.params)
           for take in (whole, microbatched(2))]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


def test_what_does_not_fit_is_refused():
  for options in ({"clip": (1.5, 0.2)}, {"mean": "all"}, {"kl": -1.0}, {"reference": "there"}):
    with pytest.raises(UserError, match=f"GroupRelative.{next(iter(options))} = "):
      GroupRelative(object(), **options)
  with pytest.raises(UserError, match="a stream cuts them"):
    GroupRelative(object()).initial_memory(tiny.make().lm, 4, 8)
