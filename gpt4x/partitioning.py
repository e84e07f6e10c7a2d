"""Mesh, logical-axis rules and shardings: the only file that knows the layout of devices."""

from collections.abc import Sequence
import contextlib
import dataclasses
import math
from typing import Any

from flax.linen import partitioning as nn_partitioning
import gin
import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gpt4x.errors import require, UserError

# t5x's standard logical names onto our mesh axes. The first rule for a name whose mesh axes are still free in the array
# wins. So `embed` is split over `fsdp` and `expert` in parameters, over `fsdp` alone in those of experts, and is whole
# in activations, where `batch` has taken both.
LOGICAL_AXIS_RULES = (
    ("batch", ("slice", "data", "fsdp", "expert")),
    ("expert", "expert"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("embed", ("fsdp", "expert")),
    ("embed", "fsdp"),
    ("residual_length", "tensor"),  # Positions of the residual stream and its memory, which no head or MLP splits.
    *((name, None) for name in ("kv", "cluster_embed", "clusters", "length", "layers")),
)

_planned: Sequence[jax.Device] | int | None = None


@contextlib.contextmanager
def planning_for(devices: Sequence[jax.Device] | int):
  """Within it, partitioners are for devices that are not here: described ones, or just a number of them."""
  global _planned
  _planned = devices
  try:
    yield
  finally:
    _planned = None


def is_planning() -> bool:
  """Whether what is made is for devices that are not here, whatever backend JAX has."""
  return _planned is not None


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh of `slice x data x fsdp x expert x tensor` devices and what lies where on it.

  `slice` and `data` replicate parameters and split the batch, `slice` over the network between slices of a pod. `fsdp`
  splits both, and so does `expert`, which gives each device whole experts of a mixture. `tensor` splits heads, MLP and
  vocabulary, and the sequence between layers. One of the sizes may be -1: the devices that are left.
  """

  slice: int | None = None  # None: as many slices as the devices are in.
  data: int = -1
  fsdp: int = 1
  expert: int = 1
  tensor: int = 1
  num_devices: int | None = None  # Use only the first so many; None: all there are.
  rules: Sequence[tuple[str, Any]] = LOGICAL_AXIS_RULES
  mesh: Mesh = dataclasses.field(init=False, repr=False, compare=False)  # Follows from the sizes and the devices.

  def __post_init__(self):
    require(self, "a whole number from 1 on, or None", lambda count: count >= 1, "num_devices")
    devices: Sequence[Any] = () if isinstance(_planned, int) else (_planned or jax.devices())[:self.num_devices]
    count = _planned if isinstance(_planned, int) else len(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices}) or 1
    sizes = {"slice": slices if self.slice is None else self.slice, "data": self.data, "fsdp": self.fsdp,
             "expert": self.expert, "tensor": self.tensor}
    text = " x ".join(f"{name}={size}" for name, size in sizes.items())
    unknown = [name for name, size in sizes.items() if size == -1]
    if len(unknown) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
      raise UserError(f"Partitioner mesh {text}: sizes must be positive, and at most one of them -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes |= dict.fromkeys(unknown, count // known)
    if math.prod(sizes.values()) != count:
      raise UserError(f"Partitioner mesh {text} does not fit the {count} device(s) here: make the product of its sizes"
                      f" {count}, or one size -1")
    if slices > 1 and sizes["slice"] != slices:
      raise UserError(f"Partitioner.slice = {sizes['slice']}, but the devices are in {slices} slices: leave it unset")
    if _planned is None and len({device.process_index for device in devices}) < jax.process_count():
      raise UserError(f"Partitioner.num_devices = {self.num_devices} leaves some of the {jax.process_count()} processes"
                      " without a device: unset it, or start fewer processes")
    names, shape = tuple(sizes), tuple(sizes.values())
    mesh = Mesh(_layout(devices, shape, slices), names) if devices else jax.sharding.AbstractMesh(shape, names)
    object.__setattr__(self, "mesh", mesh)

  @contextlib.contextmanager
  def activate(self):
    """Within it, the logical names of traced functions mean this mesh."""
    with jax.set_mesh(self.mesh), nn_partitioning.axis_rules(self.rules):
      yield

  @property
  def num_batch_shards(self) -> int:
    return math.prod(self.mesh.shape[axis] for axis in ("slice", "data", "fsdp", "expert"))

  def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
    return PartitionSpec(*nn_partitioning.logical_to_mesh_axes(axes, self.rules) or ())

  def sharding(self, *axes: str | None) -> NamedSharding:
    return NamedSharding(self.mesh, self.spec(axes))

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def place(self, params: Any, declarations: Any) -> Any:
    """The shapes of `params` with a NamedSharding each, by the `names` of the axes in a like tree of `declarations`.

    What stands in for a kernel has its axes; those that do not divide, as of scales, lie whole on every device.
    """
    def one(path, param, names, whole_where_odd=False):
      spec = list(self.spec(names))
      for axis, (dim, name, mesh_axes) in enumerate(zip(param.shape, names, spec)):
        axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
        split = {axis: self.mesh.shape[axis] for axis in axes if self.mesh.shape[axis] > 1}
        if dim % math.prod(split.values()):
          if not whole_where_odd:
            raise UserError(
                f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')} {param.shape}: its {name} = {dim}"
                f" does not divide over mesh axis {' x '.join(split)} = {math.prod(split.values())}; change either")
          spec[axis] = None
      return jax.ShapeDtypeStruct(param.shape, param.dtype,
                                  sharding=NamedSharding(self.mesh, PartitionSpec(*spec)))

    def each(path, declaration, param):
      if hasattr(param, "shape"):
        return one(path, param, declaration.names)
      return jax.tree.map(lambda leaf: one(path, leaf, declaration.names, True), param)

    return jax.tree_util.tree_map_with_path(each, declarations, params, is_leaf=lambda x: hasattr(x, "names"))

  def host_rows(self, global_rows: int, host: int | None = None) -> range | tuple[int, ...]:
    """The rows of a batch of B that lie on the devices of a process (None: this one), rising.

    Several processes have the same rows where axes that do not split the batch reach across them. A process may have
    rows that are not neighbours, where the mesh orders devices otherwise.
    """
    shards = self._host_shards(global_rows, host)
    rows = tuple(row for shard in shards for row in shard)
    neighbours = range(rows[0], rows[-1] + 1)
    return neighbours if len(rows) == len(neighbours) else rows

  def global_array(self, rows: np.ndarray, global_rows: int) -> jax.Array:
    """This host's rows of a batch, as `host_rows` lists them, as an array of all B rows, split over `batch`."""
    here = enumerate(self._host_shards(global_rows, None))
    shards = {shard.start: rows[i * len(shard):(i + 1) * len(shard)] for i, shard in here}
    return jax.make_array_from_callback(
        (global_rows, *rows.shape[1:]), self.sharding("batch", *(None,) * (rows.ndim - 1)),
        lambda index: shards[index[0].indices(global_rows)[0]])  # type: ignore[index]  # Never None for a split axis.

  def _host_shards(self, global_rows: int, host: int | None) -> list[range]:
    """The shards of B rows that the devices of a process (None: this one) hold, each once, rising."""
    host = jax.process_index() if host is None else host
    shards: Any = self.sharding("batch").devices_indices_map((global_rows,))
    return sorted({range(*index.indices(global_rows)) for device, (index,) in shards.items()
                   if device.process_index == host}, key=lambda shard: shard.start)

  def check_batch(self, batch_size: int, microbatches: int = 1) -> None:
    """Raises UserError unless the rows of a batch divide over microbatches and the devices that split them."""
    shards = self.num_batch_shards
    if batch_size < 1 or batch_size % (shards * microbatches):
      raise UserError(
          f"BATCH_SIZE = {batch_size} does not divide over {microbatches} microbatch(es) x {shards} device(s) that"
          f" split the batch (mesh slice x data x fsdp x expert): make it a multiple of {shards * microbatches}")


def _layout(devices: Sequence[jax.Device], shape: tuple[int, ...], slices: int) -> np.ndarray:
  """Devices in the shape of a mesh: neighbours of the torus along its axes, slices along the first."""
  if len(devices) == 1:
    return np.array(devices).reshape(shape)
  if slices > 1:
    return mesh_utils.create_hybrid_device_mesh((1, *shape[1:]), (slices, *[1] * len(shape[1:])), devices)
  try:
    return mesh_utils.create_device_mesh(shape, devices)
  except NotImplementedError:  # The axes of the torus do not multiply to those of the mesh, but their parts do.
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
