"""What of a train state may differ from its checkpoint, and what it then is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from gpt4x.training import optimizers
from tests.checkpoints.states import abstract, CONFIG, DATA, make_state
from tests.training.every_optimizer import OPTIMIZERS
from tests.training.test_optimizers import declared, random_tree

STEP = 7


def saved_and_read(tmp_path, saved, wanted):
  """A state as it comes back from its checkpoint as another."""
  writer = Checkpoints(str(tmp_path), CheckpointConfig())
  writer.save(STEP, saved, DATA, CONFIG, seed=0)
  restored = writer.restore(abstract(wanted))[1]
  writer.close()
  assert jax.tree.structure(restored) == jax.tree.structure(wanted)
  return restored


def after_steps(transformation, params):
  """The optimizer's state after STEP updates."""
  state = transformation.init(params)
  for _ in range(STEP):
    _, state = transformation.update(jax.tree.map(jnp.ones_like, params), state, params)
  return state


@pytest.mark.parametrize("before, after", [
    (dict(clip=None), dict(clip=1.0)), (dict(clip=1.0), dict(clip=None)),
    (dict(rate=0.02), dict(rate=optimizers.constant(0.02))), (dict(rate=optimizers.constant(0.02)), dict(rate=0.03)),
    (dict(clip=None, rate=0.02), dict(clip=1.0, rate=optimizers.constant(0.02))),
], ids=["clipped", "unclipped", "scheduled", "constant", "both"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizers_state_goes_on(tmp_path, name, before, after):
  """With gradients clipped or not, by a schedule or a number; from this version and from those before."""
  params = random_tree(0)

  def today(clip=1.0, rate=0.02):
    return optimizers.complete(OPTIMIZERS[name](rate), declared(), clip)

  def earlier(clip=1.0, rate=0.02):
    transformation = OPTIMIZERS[name](rate).make(rate, declared())
    return optax.chain(optax.clip_by_global_norm(clip), transformation) if clip else transformation

  one, other = today(**before).init(params), today(**after).init(params)
  assert jax.tree.structure(one) == jax.tree.structure(other)
  # Scaling by a number has no count, and without clipping all lies one level higher.
  expected = after_steps(today(**before), params)
  restored = saved_and_read(tmp_path, {"params": params, "opt_state": after_steps(earlier(**before), params)},
                            {"params": params, "opt_state": today(**after).init(params)})
  jax.tree.map(np.testing.assert_array_equal, restored["opt_state"], expected)


@pytest.mark.parametrize("before, after", [(0.02, lambda count: 0.02), (lambda count: 0.02, 0.02)],
                         ids=["schedule", "number"])
def test_a_transformation_of_the_users_gets_or_drops_its_count(tmp_path, before, after):
  params = random_tree(0)
  make = lambda rate: optimizers.complete(optax.adam(rate), declared(), 1.0)
  restored = saved_and_read(tmp_path, {"params": params, "opt_state": after_steps(make(before), params)},
                            {"params": params, "opt_state": make(after).init(params)})
  jax.tree.map(np.testing.assert_array_equal, restored["opt_state"], after_steps(make(after), params))


@pytest.mark.parametrize("part", ["memory", "opt_state"])
@pytest.mark.parametrize("before, after", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_another_floating_point_type(tmp_path, part, before, after):
  """As the memory has on another accelerator: exact where the new type is finer, else rounded."""
  values = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), before)
  params = {"w": jnp.ones(2)}
  restored = saved_and_read(tmp_path, {"params": params, part: {"x": values}},
                            {"params": params, part: {"x": values.astype(after)}})
  assert restored[part]["x"].dtype == after
  np.testing.assert_array_equal(restored[part]["x"], values.astype(after))


@pytest.mark.parametrize("change, words", [
    (lambda state: state._replace(params=jax.tree.map(lambda x: x.astype("bfloat16"), state.params)), "bfloat16"),
    (lambda state: state._replace(opt_state=optax.adam(1e-3, mu_dtype="bfloat16").init(
        {"other": jnp.ones(3)})), "opt_state/0/mu/other is missing|opt_state/0/mu/.* in the checkpoint and missing"),
    (lambda state: state._replace(memory=jax.tree.map(lambda x: x.astype("int32"), state.memory)), "int32"),
], ids=["parameters", "another optimizer", "memory of integers"])
def test_what_may_not_change(saved, change, words):
  with pytest.raises(UserError, match=words) as error:
    Checkpoints(str(saved)).restore(abstract(change(make_state())))
  assert "use the configuration it was saved with" in str(error.value)
