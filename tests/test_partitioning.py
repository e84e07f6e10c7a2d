import types

from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.partitioning import Partitioner


@pytest.mark.parametrize("sizes, shape", [
    ({}, (8, 1, 1)),
    ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
    ({"data": 1, "num_devices": 1}, (1, 1, 1)),
])
def test_mesh(sizes, shape):
  assert tuple(Partitioner(**sizes).mesh.shape.values()) == shape


@pytest.mark.parametrize("sizes, words", [
    ({"data": 16}, "does not fit the 8 device"),
    ({"data": 3}, "does not fit the 8 device"),
    ({"data": -1, "tensor": 16}, "does not fit the 8 device"),
    ({"data": -1, "fsdp": -1}, "at most one of them -1"),
    ({"data": 0}, "must be positive"),
])
def test_wrong_mesh(sizes, words):
  with pytest.raises(UserError, match=words):
    Partitioner(**sizes)


def test_embed_is_sharded_in_parameters_and_whole_in_activations():
  partitioner = Partitioner(data=2, fsdp=2, tensor=2)
  assert partitioner.spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
  assert partitioner.spec(("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
  assert partitioner.spec(("batch", "length", "embed")) == PartitionSpec(("data", "fsdp"), None, None)


def test_indivisible_parameter_is_named():
  partitioner = Partitioner(data=1, fsdp=1, tensor=8)
  with pytest.raises(UserError, match="mlp/wi .*its mlp = 12 does not divide over mesh axis tensor = 8"):
    partitioner.param_shardings({"mlp": {"wi": jax.ShapeDtypeStruct((4, 12), jnp.float32)}},
                                {"mlp": {"wi": PartitionSpec("embed", "mlp")}})


@pytest.mark.parametrize("batch_size, microbatches", [(12, 1), (8, 2), (0, 1)])
def test_indivisible_batch(batch_size, microbatches):
  with pytest.raises(UserError, match=f"BATCH_SIZE = {batch_size} does not divide"):
    Partitioner().check_batch(batch_size, microbatches)


@given(st.permutations(range(8)), st.sampled_from([1, 2, 4, 8]), st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]),
       st.integers(1, 3))
def test_each_host_has_the_rows_of_its_devices_and_no_others(order, num_hosts, sizes, rows_per_shard):
  """Whatever the order of devices in the mesh: eight devices, dealt to hosts by their place in `order`."""
  partitioner, num_rows = Partitioner(data=sizes[0], tensor=sizes[1]), sizes[0] * rows_per_shard
  shards = partitioner.sharding("batch").devices_indices_map((num_rows,))
  host = {device: order[device.id] * num_hosts // 8 for device in shards}
  needed = {at: sorted({row for device, (index,) in shards.items() if host[device] == at
                        for row in range(num_rows)[index]}) for at in range(num_hosts)}
  dealt = {_Device(host[device]): index for device, index in shards.items()}
  object.__setattr__(partitioner, "sharding", lambda *_: types.SimpleNamespace(devices_indices_map=lambda _: dealt))
  assert {at: list(partitioner.host_rows(num_rows, at)) for at in range(num_hosts)} == needed


class _Device:
  """Of another host, which one process cannot have."""

  def __init__(self, process_index):
    self.process_index = process_index


def test_global_array_holds_the_rows_in_order():
  rows = np.arange(32).reshape(16, 2)
  array = Partitioner(data=4, tensor=2).global_array(rows, 16)
  np.testing.assert_array_equal(array, rows)
  assert array.addressable_shards[0].data.shape == (4, 2)
