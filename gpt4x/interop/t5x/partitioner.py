"""t5x's partitioner on any number of devices of any kind."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh
from t5x import partitioning

from gpt4x.errors import UserError


class MeshPartitioner(partitioning.PjitPartitioner):
  """PjitPartitioner on a mesh of `data x model` devices, which t5x's own ignores on CPUs.

  Args:
    num_partitions: size of the `model` axis; `data` has the other devices.
    parameter_partitioning_dims: 2 splits parameters over `data` as well.
    num_devices: use only the first so many; None: all there are.
  """

  def __init__(self, num_partitions: int = 1, parameter_partitioning_dims: int = 1, num_devices: int | None = None):
    ours = (("cluster_embed", None), ("clusters", None), ("expert", None), ("residual_length", "model"))
    super().__init__(num_partitions, logical_axis_rules=partitioning.standard_logical_axis_rules(
        parameter_partitioning_dims=parameter_partitioning_dims, additional_rules=ours))
    self._devices = jax.devices()[:num_devices]
    if len(self._devices) % num_partitions:
      raise UserError(f"MeshPartitioner.num_partitions = {num_partitions} does not divide {len(self._devices)} devices")

  def partition(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """t5x's `partition`, with the mesh also where flax's sharding constraints look for it."""
    @functools.wraps(fn)
    def traced(*args, **kwargs):
      with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
        return fn(*args, **kwargs)

    return super().partition(traced, *args, **kwargs)

  @functools.cached_property
  def mesh(self) -> Mesh:
    shape = len(self._devices) // self._num_partitions, self._num_partitions
    return Mesh(mesh_utils.create_device_mesh(shape, self._devices), ("data", "model"))
