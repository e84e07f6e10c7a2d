"""The train step: microbatches, meshes and memory change nothing but the rounding; nor does the order of its parts."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.state import init_state, run_keys, state_shapes
from gpt4x.training.step import train_step
from tests.models import tiny

ROWS, LENGTH, MEMORY, STEPS = 8, 6, 5, 4
CONFIG = TransformerConfig(vocab_size=16, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=32, memory_length=MEMORY,
                           norm_position="pre")
ONE_DEVICE = dict(data=1, num_devices=1)
# By blocks of an MLP and a mixture; with its capacity some choices are dropped.
MIXTURE = MoEConfig(num_experts=4, period=2, mlp_dim=24, num_shared_experts=1, router_z_loss=0.01, bias_rate=0.01)
CAPACITY = dataclasses.replace(MIXTURE, capacity_factor=1.0, jitter=0.1)


def batches(steps=STEPS):
  rng = np.random.default_rng(0)
  for step in range(steps):
    tokens = rng.integers(1, 16, (ROWS, LENGTH + 1), dtype=np.int32)
    documents = 1 + (np.arange(LENGTH) + step * LENGTH + np.arange(ROWS)[:, None]) // 9
    yield {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
           "decoder_segment_ids": documents.astype(np.int32),
           "decoder_loss_weights": (rng.random((ROWS, LENGTH)) < 0.8).astype(np.float32)}


@functools.cache
def run(microbatches=1, optimizer="sgd", mesh=tuple(ONE_DEVICE.items()), remat="none", moe=None, steps=STEPS):
  """The state after some steps, and each step's metrics; by SGD, for Adam turns rounding into signs."""
  step, state, partitioner = prepare(microbatches, optimizer, dict(mesh), remat=remat, moe=moe)
  history = []
  with partitioner.activate():
    for batch in batches(steps):
      state, metrics = step(state, {name: partitioner.global_array(rows, ROWS) for name, rows in batch.items()})
      history.append(jax.device_get(metrics))
  return jax.device_get(state), history, jax.tree.map(lambda x: x.sharding, state.params)


def prepare(microbatches, optimizer, mesh, **changes):
  """The train step, the state before it, and the mesh."""
  model = LanguageModel(TransformerConfig(**{**CONFIG.__dict__, **changes}))
  partitioner = Partitioner(**mesh)
  tx = optimizers.with_clipping(getattr(optimizers, optimizer)(0.1 if optimizer == "sgd" else 1e-2), 1.0)
  shapes = state_shapes(model, tx, ROWS, MEMORY, partitioner)
  step = tiny.jit(functools.partial(train_step, model, tx, microbatches, 0), donate_argnums=0,
                  out_shardings=(jax.tree.map(lambda shape: shape.sharding, shapes), partitioner.replicated))
  if changes["moe"] and mesh != ONE_DEVICE:  # Dense models show that a fresh state does not depend on the mesh.
    _, state, _ = prepare(microbatches, optimizer, ONE_DEVICE, **changes)
    return step, jax.device_put(state, jax.tree.map(lambda shape: shape.sharding, shapes)), partitioner
  return step, init_state(model, tx, shapes, 0, partitioner), partitioner


def assert_same(one, other, atol=2e-5):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=atol), one[:2], other[:2])


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_nothing(microbatches):
  assert_same(run(microbatches), run())


@pytest.mark.parametrize("mesh", [
    {"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 2, "tensor": 4},
], ids=str)
def test_eight_devices_equal_one(mesh):
  state, history, shardings = run(mesh=tuple(mesh.items()))
  assert_same((state, history), run())
  wi = shardings["layers"]["mlp"]["wi"]
  assert wi.spec == jax.sharding.PartitionSpec(None, ("fsdp", "expert"), "tensor")


@pytest.mark.parametrize("moe, mesh", [
    (CAPACITY, {"data": 1, "expert": 4, "tensor": 2}), (CAPACITY, {"data": 4, "expert": 2}),
    (CAPACITY, {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}),
    (MIXTURE, {"data": 2, "expert": 2, "tensor": 2}), (MIXTURE, {"data": 1, "fsdp": 4, "expert": 2}),
], ids=lambda value: "capacity" if value == CAPACITY else "dropless" if value == MIXTURE else str(value))
def test_experts_on_eight_devices_equal_those_on_one(moe, mesh):
  """Dropped choices and the draws of jitter included."""
  state, history, shardings = run(mesh=tuple(mesh.items()), moe=moe, steps=10)
  one = run(moe=moe, steps=10)
  assert_same((state, history), one)
  assert {metrics["expert_dropped"] > 0.05 for metrics in one[1]} == {moe is CAPACITY}
  mixture = shardings["layers"]["layers_1"]["moe"]
  assert mixture["wi"].spec == jax.sharding.PartitionSpec(None, "expert", "fsdp", "tensor")
  assert mixture["wo"].spec == jax.sharding.PartitionSpec(None, "expert", "tensor", "fsdp")


@pytest.mark.parametrize("moe", [CAPACITY, MIXTURE], ids=["capacity", "dropless"])
def test_tokens_travel_to_experts_and_not_experts_to_tokens(moe):
  """What the compiled step sends between devices: nothing larger than the router has all experts or all rows."""
  moe = dataclasses.replace(moe, num_experts=12)
  step, state, partitioner = prepare(1, "sgd", {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}, moe=moe)
  with partitioner.activate():
    batch = {name: partitioner.global_array(rows, ROWS) for name, rows in next(batches()).items()}
    text = step.lower(state, batch).compile().as_text()
  sent = re.findall(r"= (.*?) (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(?:-start)?\(", text)
  shapes = {kind: {tuple(map(int, dims.split(",")))
                   for shape, of in sent if of == kind for dims in re.findall(r"\w+\[([\d,]+)\]", shape)}
            for _, kind in sent}
  experts, rows, embed, mlp = moe.num_experts // 2, ROWS // 4, CONFIG.embed_dim, moe.mlp_dim // 2
  assert (experts, embed, mlp) in shapes["all-gather"]  # Over `fsdp` only.
  assert (experts, embed // 2, mlp) in shapes["reduce-scatter"]
  places = math.ceil(2 * LENGTH / moe.num_experts)  # All-to-all is listed as what goes to each other device.
  exchanged = {shape for shape in shapes.get("all-to-all", set()) if len(shape) == 4}
  assert exchanged == ({(rows, experts, places, embed)} if moe.capacity_factor else set())
  for shape in set.union(*shapes.values()):
    assert math.prod(shape) <= moe.num_experts * embed or shape[0] not in (moe.num_experts, ROWS), shape


def test_microbatches_of_mixtures_change_nothing_but_the_routers_own_losses():
  moe = dataclasses.replace(CAPACITY, balance_loss=0.0, router_z_loss=0.0, jitter=0.0)
  assert_same(run(2, moe=moe), run(moe=moe))


def test_the_routers_biases_move_at_their_rate():
  state, _, _ = run(moe=MIXTURE, steps=10)
  steps = state.params["layers"]["layers_1"]["moe"]["router_bias"] / MIXTURE.bias_rate
  np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
  assert 2 < np.abs(steps).max() < 10.001


def test_a_dense_model_has_no_metrics_of_mixtures():
  assert set(run()[1][0]) == {"loss", "z_loss", "accuracy", "gradient_norm"}


def test_microbatches_on_a_mesh_change_nothing():
  assert_same(run(2, mesh=(("data", 2), ("fsdp", 2), ("tensor", 2))), run())


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "muon"])
def test_every_optimizer_is_sharded(optimizer):
  mesh = (("data", 2), ("fsdp", 2), ("tensor", 2))
  one, eight = run(optimizer=optimizer)[1], run(optimizer=optimizer, mesh=mesh)[1]
  np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in eight], rtol=2e-3)


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
  tx = optax.chain(optax.clip_by_global_norm(1.0), optimizers.sgd(0.1))
  updates, _ = tx.update(gradients, tx.init(params), params)
  metrics = run()[1][0]
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradients), rtol=1e-4)
  # One step of `run`, for its parameters are those after the last.
  state_shapes_ = state_shapes(model, tx, ROWS, MEMORY, Partitioner(**ONE_DEVICE))
  state = init_state(model, tx, state_shapes_, 0, Partitioner(**ONE_DEVICE))
  state, _ = tiny.jit(functools.partial(train_step, model, tx, 1, 0))(state, batch)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state.params,
               optax.apply_updates(params, updates))
  assert state.step == 1 and state.memory.segment_ids.tolist() == batch["decoder_segment_ids"][:, -MEMORY:].tolist()
