"""What every optimizer must do, on one device and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.checkpoints import layout
from gpt4x.models.parameters import Declaration
from gpt4x.training import optimizers
from tests.training.every_optimizer import OPTIMIZERS
from tests.training.steps import run
from tests.training.test_optimizers import declared, LAYERS, random_tree, updates_of

each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@each
def test_leaves_the_routers_biases_where_they_are(make):
  """They have no gradient; the train step moves them."""
  params, gradient = random_tree(0, LAYERS["moe"]), random_tree(1, LAYERS["moe"])
  gradient["router_bias"] *= 0
  for updates in updates_of(make(0.02), params, gradient, gradient, shapes=LAYERS["moe"], clip_norm=1.0):
    np.testing.assert_array_equal(updates["router_bias"], 0)
    assert (updates["router"] != 0).all()


@each
def test_lowers_a_quadratic(make):
  params, target = random_tree(0), random_tree(1)
  loss = lambda params: 0.5 * sum(jnp.sum((a - b)**2) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(target)))
  optimizer = optimizers.complete(make(0.02), declared(), 100.0)

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None
    return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[0][0]

  assert loss(run(params)) < 0.6 * loss(params)


@each
def test_decays_kernels_alone(make):
  """Without a gradient, what is no kernel stays; a kernel shrinks, or stays where there is no decay."""
  params = random_tree(0, LAYERS)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (plain,) = updates_of(make(0.02, weight_decay=0.0), params, zeros, shapes=LAYERS)
  (decayed,) = updates_of(make(0.02, weight_decay=0.5), params, zeros, shapes=LAYERS)

  def check(path, declaration, param, without, with_decay):
    expected = 0.01 * param if declaration.is_kernel else 0 * param
    np.testing.assert_allclose(without - with_decay, expected, rtol=1e-4, atol=1e-7, err_msg=str(path))

  jax.tree_util.tree_map_with_path(check, declared(LAYERS), params, plain, decayed,
                                   is_leaf=lambda x: isinstance(x, Declaration))


@each
def test_every_leaf_of_its_state_has_a_name_of_its_own(make):
  state = jax.eval_shape(optimizers.complete(make(0.02), declared(), 1.0).init, random_tree(0))
  names = layout.leaves_by_name({"opt_state": state})
  assert len(names) == len(jax.tree.leaves(state))


@each
def test_tells_its_learning_rate(make):
  """The schedule's value for each update, and the number where there is no schedule."""
  params, schedule = random_tree(0), optimizers.warmup_linear(0.5, 2, 4)
  for rate, expected in ((schedule, [0.25, 0.5, 0.5, 0.25]), (0.125, [0.125] * 4)):
    optimizer, found = make(rate), []
    transformation = optimizers.complete(optimizer, declared(), 1.0)
    state = transformation.init(params)
    for _ in expected:
      before = state
      _, state = transformation.update(params, before, params)
      found.append(float(optimizers.learning_rate_of(optimizer, before, state)["learning_rate"]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("optimizer, expected", [
    (optax.adam(lambda count: 0.5), None), (lambda declarations: optax.sgd(0.5), None),
    (optax.inject_hyperparams(optax.adam)(lambda count: 0.5 / (count + 1)), [0.5, 0.25, 0.5 / 3]),
    (optax.inject_hyperparams(optax.sgd)(learning_rate=0.25), [0.25] * 3),
], ids=["adam", "function", "injected schedule", "injected number"])
def test_a_transformation_of_the_users_tells_it_where_it_can(optimizer, expected):
  params = random_tree(0)
  transformation = optimizers.complete(optimizer, declared(), 1.0)
  state, found = transformation.init(params), []
  for _ in range(3):
    before = state
    _, state = transformation.update(params, before, params)
    found.append(optimizers.learning_rate_of(optimizer, before, state))
  assert [one.get("learning_rate") for one in found] == (
      [pytest.approx(rate) for rate in expected] if expected else [None] * 3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_makes_the_same_steps_on_a_mesh(name):
  mesh = (("data", 2), ("fsdp", 2), ("tensor", 2))
  one, eight = run(optimizer=name)[1], run(optimizer=name, mesh=mesh)[1]
  np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in eight], rtol=2e-3)
