"""The train step: microbatches, meshes and memory change nothing but the rounding; nor does the order of its parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.state import run_keys
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.training.steps import assert_same, batches, CONFIG, MEMORY, ONE_DEVICE, ROWS, run


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_nothing(microbatches):
  assert_same(run(microbatches), run())


@pytest.mark.parametrize("mesh", [
    {"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 2, "tensor": 4},
], ids=str)
def test_eight_devices_equal_one(mesh):
  state, history, shardings = run(mesh=tuple(mesh.items()), steps=10)
  assert_same((state, history), run(steps=10))
  wi = shardings["layers"]["mlp"]["wi"]
  assert wi.spec == jax.sharding.PartitionSpec(None, ("fsdp", "expert"), "tensor")


def test_microbatches_on_a_mesh_change_nothing():
  assert_same(run(2, mesh=(("data", 2), ("fsdp", 2), ("tensor", 2))), run())


def test_rematerialisation_changes_nothing():
  assert_same(run(remat="full"), run())


def test_a_step_is_the_textbook_step():
  """The first step against a gradient of the mean loss, written out."""
  model = LanguageModel(CONFIG)
  params = model.init(run_keys(0)[0])
  batch = next(batches())

  def mean_loss(params):
    logits, _ = model.logits(params, batch["decoder_input_tokens"], model.initial_memory(ROWS),
                             batch["decoder_segment_ids"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["decoder_target_tokens"])
    return jnp.sum(losses * batch["decoder_loss_weights"]) / batch["decoder_loss_weights"].sum()

  loss, gradients = tiny.jit(jax.value_and_grad(mean_loss))(params)
  step = TrainStep(model, NextToken(), optimizers.sgd(0.1), clip_norm=1.0)
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9))
  updates, _ = tx.update(gradients, tx.init(params), params)
  metrics = run()[1][0]
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradients), rtol=1e-4)
  # One step of `run`, for its parameters are those after the last.
  partitioner = Partitioner(**ONE_DEVICE)
  state = init_state(step, state_shapes(step, ROWS, MEMORY, partitioner), partitioner)
  state, _ = tiny.jit(step.__call__)(state, batch)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state.params,
               optax.apply_updates(params, updates))
  assert state.step == 1 and state.memory.segment_ids.tolist() == batch["decoder_segment_ids"][:, -MEMORY:].tolist()
