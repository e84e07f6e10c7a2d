"""Mesh, logical-axis rules and shardings: the only file that knows the layout of devices."""

import contextlib
import dataclasses
import math
from typing import Any, Sequence

from flax.linen import partitioning as nn_partitioning
import gin
import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gpt4x.errors import UserError

# t5x's standard logical names onto our mesh axes. Of the rules that name an axis the first whose mesh axes are still
# free in that array wins: `embed` is sharded in parameters and, `batch` having taken `fsdp`, whole in activations.
LOGICAL_AXIS_RULES = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("embed", "fsdp"),
    ("kv", None),
    ("cluster_embed", None),
    ("clusters", None),
    ("length", None),
    ("layers", None),
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh of `data x fsdp x tensor` devices and what lies where on it.

  `data` replicates parameters and splits the batch; `fsdp` splits both; `tensor` splits heads, MLP and vocabulary.
  One of the sizes may be -1: the devices that are left.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  num_devices: int | None = None  # Use only the first so many; None: all there are.
  rules: Sequence[tuple[str, Any]] = LOGICAL_AXIS_RULES

  def __post_init__(self):
    devices = jax.devices()[:self.num_devices]
    sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
    text = " x ".join(f"{name}={size}" for name, size in sizes.items())
    unknown = [name for name, size in sizes.items() if size == -1]
    if len(unknown) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
      raise UserError(f"Partitioner mesh {text}: sizes must be positive, and at most one of them -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if unknown:
      sizes[unknown[0]] = len(devices) // known
    if known > len(devices) or math.prod(sizes.values()) != len(devices):
      raise UserError(
          f"Partitioner mesh {text} does not fit the {len(devices)} device(s) here: make the product of its sizes"
          f" {len(devices)}, or one size -1")
    shape = tuple(sizes.values())
    if len({device.process_index for device in devices}) < jax.process_count():
      raise UserError(f"Partitioner.num_devices = {self.num_devices} leaves some of the {jax.process_count()} processes"
                      " without a device: unset it, or start fewer processes")
    layout = mesh_utils.create_device_mesh(shape, devices) if len(devices) > 1 else np.array(devices).reshape(shape)
    object.__setattr__(self, "mesh", Mesh(layout, tuple(sizes)))

  @contextlib.contextmanager
  def activate(self):
    """Within it, the logical names of traced functions mean this mesh."""
    with self.mesh, nn_partitioning.axis_rules(self.rules):
      yield

  @property
  def num_batch_shards(self) -> int:
    return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

  def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
    return PartitionSpec(*nn_partitioning.logical_to_mesh_axes(axes, self.rules))

  def sharding(self, *axes: str | None) -> NamedSharding:
    return NamedSharding(self.mesh, self.spec(axes))

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def param_shardings(self, params: Any, axes: Any) -> Any:
    """A NamedSharding for each of `params` (arrays or their shapes), given their logical `axes`."""
    def one(path, param, names):
      spec = self.spec(names)
      for dim, name, mesh_axes in zip(param.shape, names, spec):
        for mesh_axis in [mesh_axes] if isinstance(mesh_axes, str) else mesh_axes or ():
          if dim % self.mesh.shape[mesh_axis]:
            raise UserError(
                f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')} {param.shape}: its {name} = {dim}"
                f" does not divide over mesh axis {mesh_axis} = {self.mesh.shape[mesh_axis]}; change either")
      return NamedSharding(self.mesh, spec)

    return jax.tree_util.tree_map_with_path(one, params, axes)

  def host_rows(self, global_rows: int, host: int | None = None) -> range | tuple[int, ...]:
    """Those of the B rows of a batch that lie on the devices of a process (None: this one), rising.

    Where mesh axes that do not split the batch reach across processes, several have the same rows; where the mesh has
    its devices in another order, a process may have rows that are not neighbours.
    """
    shards = self._host_shards(global_rows, jax.process_index() if host is None else host)
    rows = tuple(row for shard in shards for row in shard)
    neighbours = range(rows[0], rows[-1] + 1)
    return neighbours if len(rows) == len(neighbours) else rows

  def global_array(self, rows: np.ndarray, global_rows: int) -> jax.Array:
    """This host's rows of a batch, as `host_rows` lists them, as an array of all B rows, split over `batch`."""
    here = self._host_shards(global_rows, jax.process_index())
    places = {shard.start: i * len(shard) for i, shard in enumerate(here)}

    def shard(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(global_rows)
      return rows[places[start]:places[start] + stop - start]

    sharding = self.sharding("batch", *(None,) * (rows.ndim - 1))
    return jax.make_array_from_callback((global_rows, *rows.shape[1:]), sharding, shard)

  def _host_shards(self, global_rows: int, host: int) -> list[range]:
    """The shards of B rows that a process's devices hold, each once, rising."""
    shards = self.sharding("batch").devices_indices_map((global_rows,)).items()
    return sorted({range(*index.indices(global_rows)) for device, (index,) in shards if device.process_index == host},
                  key=lambda shard: shard.start)

  def check_batch(self, batch_size: int, microbatches: int = 1) -> None:
    """Raises UserError unless the rows of a batch divide over microbatches and the devices that split them."""
    shards = self.num_batch_shards
    if batch_size < 1 or batch_size % (shards * microbatches):
      raise UserError(
          f"BATCH_SIZE = {batch_size} does not divide over {microbatches} microbatch(es) x {shards} device(s) that"
          f" split the batch (mesh data x fsdp): make it a multiple of {shards * microbatches}")
