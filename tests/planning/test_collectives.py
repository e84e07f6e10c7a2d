"""Reading collectives out of programs whose communication is known."""

import functools

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from gpt4x.planning import collectives

SHAPE = {"data": 2, "expert": 1, "tensor": 4}


@functools.cache
def mesh():
  return Mesh(np.array(jax.devices()[:8]).reshape(tuple(SHAPE.values())), tuple(SHAPE))


def compiled(function, *arrays, out=P()):
  """HLO of a function of float32 arrays, each given as (shape, spec)."""
  arguments = [jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh(), spec)) for shape, spec in arrays]
  return jax.jit(function, out_shardings=NamedSharding(mesh(), out)).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("spec, out, kind, axes, size, result, traffic", [
    (P("data"), P(), "all-gather", "data", 2, 32 * 16 * 4, 32 * 16 * 4 / 2),
    (P("tensor"), P(), "all-gather", "tensor", 4, 32 * 16 * 4, 32 * 16 * 4 * 3 / 4),
    (P(("data", "tensor")), P(), "all-gather", "data x tensor", 8, 32 * 16 * 4, 32 * 16 * 4 * 7 / 8),
    (P(None, "tensor"), P("tensor", None), "all-to-all", "tensor", 4, 8 * 16 * 4, 8 * 16 * 4 * 3 / 4),
])
def test_moving_an_array(spec, out, kind, axes, size, result, traffic):
  found = collectives.parse(compiled(lambda x: x * 2, ((32, 16), spec), out=out), SHAPE)
  assert [(one.kind, one.axes, one.size, one.result_bytes, one.traffic) for one in found] == [
      (kind, axes, size, result, traffic)]
  assert collectives.by_axes(found) == {axes: traffic}


def test_a_product_over_a_split_axis():
  hlo = compiled(lambda x, y: x @ y, ((8, 64), P("data", "tensor")), ((64, 16), P("tensor")), out=P("data"))
  (found,) = collectives.parse(hlo, SHAPE)
  assert (found.kind, found.axes, found.result_bytes, found.traffic) == ("all-reduce", "tensor", 256, 2 * 256 * 3 / 4)


def test_a_neighbour():
  permute = jax.shard_map(
      lambda x: jax.lax.ppermute(x, "tensor", [(i, (i + 1) % 4) for i in range(4)]), mesh=mesh(), in_specs=P("tensor"),
      out_specs=P("tensor"))
  (found,) = collectives.parse(compiled(permute, ((32, 16), P("tensor")), out=P("tensor")), SHAPE)
  assert (found.kind, found.axes, found.traffic) == ("collective-permute", "tensor", 8 * 16 * 4)


@pytest.mark.parametrize("groups, axes", [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", "tensor"),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
    ("replica_groups=[1,8]<=[8]", "data x tensor"),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_0'}", "data"),
    ("replica_groups=mesh['axis_0'=8] {'axis_0'}", "data x tensor"),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", "tensor"),
    ("replica_groups={}", "data x tensor"),
])
def test_every_way_to_write_groups(groups, axes):
  line = f"  %x = (bf16[4,8]{{1,0:T(8,128)(2,1)}}, f32[2]{{0}}) all-reduce(%a, %b), channel_id=1, {groups}, to_apply=%c"
  (found,) = collectives.parse(line, SHAPE)
  assert (found.axes, found.result_bytes) == (axes, 4 * 8 * 2 + 2 * 4)


def test_an_asynchronous_start_counts_its_result_once():
  line = ("%s = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%a), replica_groups={{0,1,2,3},{4,5,6,7}}\n"
          "%d = f32[16,8]{1,0} all-gather-done(%s)\n"
          "%one = f32[16,8]{1,0} all-gather(%a), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}")
  (found,) = collectives.parse(line, SHAPE)
  assert found.result_bytes == 16 * 8 * 4
