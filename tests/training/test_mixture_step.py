"""The train step of mixtures of experts: meshes and microbatches change nothing but the rounding."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from tests.training.steps import assert_same, batches, CAPACITY, CONFIG, LENGTH, MIXTURE, prepare, ROWS, run


@pytest.mark.parametrize("moe, mesh", [
    (CAPACITY, {"data": 1, "expert": 4, "tensor": 2}), (CAPACITY, {"data": 4, "expert": 2}),
    (CAPACITY, {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}),
    (CAPACITY, {"data": 2, "fsdp": 2, "expert": 2}),
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
  assert exchanged == ({(1, experts, rows * places, embed)} if moe.capacity_factor else set())
  for shape in set.union(*shapes.values()):
    assert math.prod(shape) <= moe.num_experts * embed or shape[0] not in (moe.num_experts, ROWS), shape


def test_microbatches_of_mixtures_change_nothing_but_the_routers_own_losses():
  moe = dataclasses.replace(CAPACITY, balance_loss=0.0, router_z_loss=0.0, jitter=0.0)
  found = run(2, moe=moe), run(moe=moe)
  for metrics in found[0][1] + found[1][1]:
    metrics.pop("router_balance_loss", None)
  assert_same(*found)


def test_the_routers_biases_move_at_their_rate():
  state, _, _ = run(moe=MIXTURE, steps=10)
  steps = state.params["layers"]["layers_1"]["moe"]["router_bias"] / MIXTURE.bias_rate
  np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
  assert 2 < np.abs(steps).max() < 10.001


def test_a_dense_model_has_no_metrics_of_mixtures():
  assert set(run()[1][0]) == {"loss", "z_loss", "accuracy", "gradient_norm", "learning_rate", "finite"}
