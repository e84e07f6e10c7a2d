"""The one door of parameters: `param` makes and declares them, `product` multiplies by a kernel.

A kernel is a parameter that a product sums over. Where its array is expected, a `Substitute` may lie instead: a
quantized or masked kernel, one with an adapter. Layers do not know which.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, ClassVar

from flax import traverse_util
import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gpt4x.models.shapes import Array

Initializer = Callable[..., jax.Array]
HEADS = "heads", "kv"  # The logical axes of what is projected to heads.


@flax.struct.dataclass
class Declaration(nn_partitioning.AxisMetadata):
  """What a parameter says of itself: the logical name of each axis, and the axes that a product sums over, if any.

  Optimizers, pruning and quantization go by this, not by names.
  """

  summed: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

  @property
  def is_kernel(self) -> bool:
    return bool(self.summed)

  @property
  def is_hidden(self) -> bool:
    """Whether it maps hidden features to hidden features: every axis has a name, and none is the vocabulary's."""
    return self.is_kernel and {None, "vocab", "cluster_embed", "clusters"}.isdisjoint(self.names)

  @property
  def summed_axes(self) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(self.names) if name in self.summed)

  @property
  def leading_axes(self) -> tuple[int, ...]:
    """Those along which there are several kernels: of scanned layers, of experts."""
    return tuple(i for i, name in enumerate(self.names) if name in ("layers", "expert"))


class Substitute:
  """What may lie in the place of a kernel's array: a pytree, its leaves with an axis for layers that are scanned.

  Each leaf has the kernel's axes; those that a product sums over may have another size, the others have it or 1. What
  is not `joinable` may have others.
  """

  joinable: ClassVar[bool] = True  # Whether two may become one by joining leaves along an axis of outputs.

  def dense(self, dtype: Any) -> jax.Array:
    """The array that it stands for."""
    raise NotImplementedError

  def product(self, x: jax.Array, summed: tuple[int, ...]) -> jax.Array:
    """What `product` gives; override it where there is a better way than by the whole array."""
    return contract(x, self.dense(x.dtype), summed)

  def for_steps(self, summed: tuple[int, ...]) -> "Substitute":
    """What `product` is best at with few rows at a time, as in decoding; leaves may have any axes."""
    return self

  def rows(self, ids: Any) -> "Substitute":
    """Rows of the first axis, which is not summed over: a slice, or an array of indices."""
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == 1 else leaf[ids], self)


class Kernel(flax.struct.PyTreeNode):
  """A parameter as layers have it: an array in the compute dtype or a Substitute, and the axes that are summed over."""

  value: Any
  summed: tuple[int, ...] = flax.struct.field(pytree_node=False)
  dtype: Any = flax.struct.field(pytree_node=False)

  def dense(self) -> jax.Array:
    return self.value.dense(self.dtype) if isinstance(self.value, Substitute) else self.value

  def rows(self, start: int, stop: int) -> "Kernel":
    """Rows of the first axis, which is not summed over."""
    ids = slice(start, stop)
    return self.replace(value=self.value.rows(ids) if isinstance(self.value, Substitute) else self.value[ids])

  def for_steps(self) -> "Kernel":
    return self.replace(value=self.value.for_steps(self.summed)) if isinstance(self.value, Substitute) else self

  def transposed(self) -> "Kernel":
    """A kernel of two axes for products in the other direction."""
    return self.replace(summed=(1 - self.summed[0],))


def kernel_init(in_axis=0, out_axis=-1, scale: float = 1.0, batch_axis=()) -> Initializer:
  return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis)


def param(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], axes: tuple[str | None, ...],
          summed: tuple[str, ...] = (), dtype: Any = None) -> Any:
  """Makes, or finds, a float32 parameter and declares it.

  Args:
    module: whose parameter it is.
    name: in the module.
    init: of (key, shape, dtype).
    shape: of its axes.
    axes: their logical names.
    summed: those that `product` sums over, last in x and in this order; none for what is no kernel.
    dtype: what it is cast to; None: the module's compute dtype.

  Returns:
    A Kernel, or without `summed` an array.
  """
  dtype = dtype or module.config.compute_dtype
  declaration = Declaration(axes, summed)
  module.sow("params_axes", f"{name}_axes", declaration, reduce_fn=lambda _, new: new)
  if module.has_variable("params", name) and isinstance(module.get_variable("params", name), Substitute):
    value: Any = module.get_variable("params", name)
  else:
    value = nn_partitioning.with_sharding_constraint(
        module.param(name, init, shape, jnp.float32), jax.sharding.PartitionSpec(*axes))
    value = jnp.asarray(value, dtype)
  return Kernel(value, declaration.summed_axes, dtype) if summed else value


def declarations(params_axes: Mapping[str, Any]) -> dict[str, Any]:
  """The collection `params_axes` as a tree like that of the parameters, a Declaration for each."""
  flat = traverse_util.flatten_dict(params_axes)
  return traverse_util.unflatten_dict({(*path, name.removesuffix("_axes")): one for (*path, name), one in flat.items()})


def map_declared(function: Callable[[Any, Declaration], Any], params: Any, declarations: Any) -> Any:
  """`function(parameter, its declaration)` in the place of each parameter, a Substitute being one."""
  return jax.tree.map(lambda declaration, param: function(param, declaration), declarations, params,
                      is_leaf=lambda x: isinstance(x, Declaration))


def for_steps(params: Any, declarations: Any) -> Any:
  """What the steps of decoding use in the places of some kernels, None in those of all other parameters.

  Kernels to heads are not among them: a cache has them joined (`StepConstants`).
  """
  def one(param, declaration):
    names = declaration.names
    if not (isinstance(param, Substitute) and declaration.is_hidden) or "expert" in names or names[-2:] == HEADS:
      return None
    layers = names.count("layers")
    turn = lambda param: param.for_steps(tuple(axis - layers for axis in declaration.summed_axes))
    turned = jax.vmap(turn)(param) if layers else turn(param)
    return None if type(turned) is type(param) else turned

  return map_declared(one, params, declarations)


def put(params: Any, others: Any) -> Any:
  """Parameters, with others in their places where there are any."""
  return jax.tree.map(lambda other, param: param if other is None else other, others, params,
                      is_leaf=lambda x: x is None or isinstance(x, Substitute))


def product(x: Float[Array, "*rows_and_summed"], kernel: Kernel, dtype: Any = None) -> Float[Array, "..."]:
  """x [..., *I] by a kernel that sums over I: [..., *O], accumulated and given in `dtype` if there is one."""
  if isinstance(kernel.value, Substitute):
    y = kernel.value.product(x, kernel.summed)
    return y if dtype is None else y.astype(dtype)
  return contract(x, kernel.value, kernel.summed, dtype)


def lookup(table: Kernel, ids: Int[Array, "*ids"]) -> Float[Array, "*ids D"]:
  """Rows of a table of two axes, whole: GSPMD would look up the batch's ids on each device that has a part of them."""
  if isinstance(table.value, Substitute):
    flat = table.value.rows(ids.reshape(-1)).dense(table.dtype)
    return flat.reshape(*ids.shape, flat.shape[-1])
  return nn_partitioning.with_sharding_constraint(table.dense(), ("vocab", None))[ids]


def contract(x: jax.Array, kernel: jax.Array, summed: tuple[int, ...], dtype: Any = None) -> jax.Array:
  """`product` of two arrays."""
  if summed == (kernel.ndim - 1,):
    return jnp.einsum("...d,vd->...v", x, kernel, preferred_element_type=dtype)
  count = len(summed)
  if summed == tuple(range(count)) and jax.sharding.get_abstract_mesh().size <= 1:
    return _matrix_product(x, kernel, count, dtype)
  # A mesh may split each axis.
  return jnp.tensordot(x, kernel, (tuple(range(x.ndim - count, x.ndim)), summed), preferred_element_type=dtype)


def _matrix_product(x: jax.Array, kernel: jax.Array, count: int, dtype: Any) -> jax.Array:
  """The product as one of two matrices.

  XLA's CPU backend copies operands, transposed, where a gradient contracts more axes than one: that took 132 ms of a
  training step of 6 layers of width 512, which became 1.08 to 1.15 times as fast.
  """
  rows, features = x.shape[:x.ndim - count], math.prod(kernel.shape[:count])
  y = jnp.matmul(x.reshape(-1, features), kernel.reshape(features, -1), preferred_element_type=dtype)
  return y.reshape(*rows, *kernel.shape[count:])


def product_of_rows(x: jax.Array, kernel: Kernel) -> jax.Array:
  """`product` of few rows x [B, *I] by a kernel that sums over all but its last axis: [B, D].

  XLA's CPU backend gives a matrix and one vector to one core, and a batch of two of them, its halves, to two: decoding
  steps of 12 layers of width 512 take 4.8 ms so, 5.8 ms by the whole matrix.
  """
  if isinstance(kernel.value, Substitute):
    return product(x, kernel)
  rows, matrix = x.reshape(len(x), -1), kernel.value.reshape(-1, kernel.value.shape[-1])
  parts = 2 if len(rows) == 1 and len(matrix) % 2 == 0 else 1
  halves = jnp.einsum("bpi,pid->pbd", rows.reshape(len(rows), parts, -1), matrix.reshape(parts, -1, matrix.shape[-1]))
  return jnp.sum(halves, 0)


def joined(kernels: Sequence[Kernel], axis: int) -> tuple[Kernel, ...]:
  """Kernels beside each other along an axis of outputs, as one if they are of one kind, else as they are."""
  values = [kernel.value for kernel in kernels]
  odd = lambda value: isinstance(value, Substitute) and (
      not value.joinable or 1 in (leaf.shape[axis] for leaf in jax.tree.leaves(value)))
  if len({jax.tree.structure(value) for value in values}) > 1 or any(map(odd, values)):
    return tuple(kernels)
  return kernels[0].replace(value=jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *values)),
