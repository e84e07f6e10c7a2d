"""Training with zeros: what was pruned stays so, whatever the optimizer; more goes by its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.compression import pruning
from gpt4x.compression.pruning import Sparsity
from gpt4x.errors import UserError
from gpt4x.models.parameters import map_declared
from gpt4x.training import optimizers
from gpt4x.training.sparsity import sparse
from tests.models import tiny

MADE = tiny.make(mlp_dim=16, embed_dim=16, head_dim=8)
_, DECLARATIONS = MADE.lm.declared


def trained(optimizer, params, steps):
  """The parameters after each step of made-up gradients."""
  transformation = optimizers.complete(optimizer, DECLARATIONS)

  @jax.jit
  def step(params, state, key):
    gradients = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), params)
    updates, state = transformation.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  state = transformation.init(params)
  for i in range(steps):
    params, state = step(params, state, jax.random.key(i))
    yield params


def zeros(params):
  """The share of zeros of each kernel that pruning is for, and of the rest."""
  found = map_declared(lambda leaf, one: (pruning.is_pruned(one), np.mean(np.asarray(leaf) == 0)), params, DECLARATIONS)
  flat = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, tuple))
  return [share for pruned, share in flat if pruned], [share for pruned, share in flat if not pruned]


@pytest.mark.parametrize("inner", [
    optimizers.adamw(0.01), optimizers.muon(0.01), optimizers.sgd(0.01), optax.adam(0.01)])
def test_zeros_stay_and_the_rest_moves(inner):
  params = pruning.pruned(jax.tree.map(jnp.asarray, MADE.params), None, DECLARATIONS, "magnitude", Sparsity.of("50%"))
  *_, after = trained(sparse(inner), params, 3)

  def check(pair, declaration):
    before, now = pair
    if pruning.is_pruned(declaration):
      np.testing.assert_array_equal(before == 0, now == 0)
    assert np.abs(before - now).max() > 0

  map_declared(check, jax.tree.map(lambda *pair: pair, params, after), DECLARATIONS)


def test_a_share_rises_to_its_end_and_stays():
  made = list(trained(sparse(optimizers.adamw(0.001), "75%", start_step=2, end_step=8, every=2), MADE.params, 12))
  shares = [np.mean(zeros(params)[0]) for params in made]
  assert shares[0] == shares[1] == 0
  expected = {4: 1 - (1 - 2 / 6)**3, 6: 1 - (1 - 4 / 6)**3, 8: 1}
  for step, share in expected.items():
    np.testing.assert_allclose(shares[step], 0.75 * share, atol=0.02)
    assert shares[step + 1] == shares[step]
  assert shares[11] == shares[8] and max(zeros(made[-1])[1]) == 0


def test_a_pattern_comes_at_once():
  *_, after = trained(sparse(optimizers.adamw(0.001), "2:4"), MADE.params, 3)

  def check(leaf, declaration):
    if pruning.is_pruned(declaration):
      rows = np.moveaxis(np.asarray(leaf), declaration.summed_axes[-1], -1)
      assert np.all((rows.reshape(-1, 4) != 0).sum(1) == 2)

  map_declared(check, after, DECLARATIONS)


def test_it_prunes_what_compress_does():
  """At a learning rate of nearly nothing: the same weights."""
  for text in ("50%", "2:4"):
    *_, after = trained(sparse(optimizers.sgd(1e-30), text), MADE.params, 1)
    expected = pruning.pruned(MADE.params, None, DECLARATIONS, "magnitude", Sparsity.of(text))
    agree = [np.mean((np.asarray(a) == 0) == (np.asarray(b) == 0))
             for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected))]
    assert min(agree) > (0.98 if text == "50%" else 0.999)


def test_the_learning_rate_is_told():
  optimizer = sparse(optimizers.adamw(optimizers.warmup_linear(0.1, 0, 10)))
  transformation = optimizers.complete(optimizer, DECLARATIONS)
  state = transformation.init(MADE.params)
  assert optimizers.learning_rate_of(optimizer, state, state)["learning_rate"] == np.float32(0.1)


@pytest.mark.parametrize("arguments, message", [
    (dict(sparsity="half"), "'half' is no sparsity"), (dict(sparsity="50%", start_step=5), "the end is no earlier"),
    (dict(every=0), "every is at least 1")])
def test_contradictions(arguments, message):
  with pytest.raises(UserError, match=message):
    sparse(optimizers.adamw(0.01), **arguments)
