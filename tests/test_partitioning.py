import types

from flax.linen.partitioning import with_sharding_constraint
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.models.parameters import Declaration
from gpt4x.partitioning import Partitioner, planning_for


@pytest.mark.parametrize("sizes, shape", [
    ({}, (1, 8, 1, 1, 1)),
    ({"data": 2, "fsdp": 2, "tensor": 2}, (1, 2, 2, 1, 2)),
    ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 1, 4, 1, 2)),
    ({"data": -1, "expert": 2, "tensor": 2}, (1, 2, 1, 2, 2)),
    ({"slice": 2, "data": 1, "fsdp": -1}, (2, 1, 4, 1, 1)),
    ({"slice": -1, "data": 1}, (8, 1, 1, 1, 1)),
    ({"data": 1, "num_devices": 1}, (1, 1, 1, 1, 1)),
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
  assert partitioner.spec(("embed", "mlp")) == PartitionSpec(("fsdp", "expert"), "tensor")
  assert partitioner.spec(("vocab", "embed")) == PartitionSpec("tensor", ("fsdp", "expert"))
  assert partitioner.spec(("expert", "embed", "mlp")) == PartitionSpec("expert", "fsdp", "tensor")
  rows = ("slice", "data", "fsdp", "expert")
  assert partitioner.spec(("batch", "length", "embed")) == PartitionSpec(rows, None, None)
  assert partitioner.spec(("batch", "residual_length", "embed")) == PartitionSpec(rows, "tensor", None)


def test_constraints_hold_where_the_mesh_is_active():
  partitioner = Partitioner(data=2, fsdp=2, tensor=2)
  with partitioner.activate():
    whole = jax.jit(lambda x: with_sharding_constraint(x, ("batch", "mlp")))(jnp.ones((8, 8)))
  assert whole.addressable_shards[0].data.shape == (2, 4)


@pytest.mark.parametrize("mesh, shape, axes, words", [
    ({"tensor": 8}, (4, 12), ("embed", "mlp"), "mlp = 12 does not divide over mesh axis tensor = 8"),
    ({"fsdp": 4, "expert": 2}, (4, 12), ("embed", "mlp"), "embed = 4 does not divide over mesh axis fsdp x expert = 8"),
    ({"fsdp": 2, "expert": 4}, (6, 4, 12), ("expert", "embed", "mlp"),
     "expert = 6 does not divide over mesh axis expert = 4"),
])
def test_indivisible_parameter_is_named(mesh, shape, axes, words):
  with pytest.raises(UserError, match=f"mlp/wi .*its {words}"):
    Partitioner(data=1, **mesh).place(
        {"mlp": {"wi": jax.ShapeDtypeStruct(shape, jnp.float32)}}, {"mlp": {"wi": Declaration(axes)}})


@pytest.mark.parametrize("batch_size, microbatches", [(12, 1), (8, 2), (0, 1)])
def test_indivisible_batch(batch_size, microbatches):
  for mesh in ({}, {"data": 2, "fsdp": 2, "expert": 2}):
    with pytest.raises(UserError, match=f"BATCH_SIZE = {batch_size} does not divide"):
      Partitioner(**mesh).check_batch(batch_size, microbatches)


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
  """A device of another host, which one process cannot have."""

  def __init__(self, process_index):
    self.process_index = process_index


def test_global_array_holds_the_rows_in_order():
  rows = np.arange(32).reshape(16, 2)
  array = Partitioner(data=4, tensor=2).global_array(rows, 16)
  np.testing.assert_array_equal(array, rows)
  assert array.addressable_shards[0].data.shape == (4, 2)


class Described:
  """A device of a slice of a pod, as far as a layout looks at it."""

  def __init__(self, number, slice_index, coords):
    self.id, self.slice_index, self.coords = number, slice_index, coords
    self.process_index, self.platform, self.device_kind, self.core_on_chip = number // 4, "tpu", "TPU v4", 0

  def __repr__(self):
    return f"{self.slice_index}.{self.id}"


def test_slices_lie_along_the_first_axis():
  devices = [Described(16 * s + 4 * y + x, s, (x, y, 0)) for s in range(2) for y in range(4) for x in range(4)]
  with planning_for(devices):
    mesh = Partitioner(fsdp=4, tensor=4).mesh
    assert tuple(mesh.shape.values()) == (2, 1, 4, 1, 4)
    for number in range(2):
      assert {device.slice_index for device in mesh.devices[number].ravel()} == {number}
    with pytest.raises(UserError, match="are in 2 slices"):
      Partitioner(slice=1, fsdp=8, tensor=4)


def test_planning_for_devices_of_which_only_the_number_is_known():
  with planning_for(4096):
    partitioner = Partitioner(data=1, fsdp=256, tensor=-1)
  assert tuple(partitioner.mesh.shape.values()) == (1, 1, 256, 1, 16)
  assert partitioner.sharding("embed", "mlp").shard_shape((1024, 64)) == (4, 4)
