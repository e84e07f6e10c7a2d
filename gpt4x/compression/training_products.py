"""Products of int8 or fp8 in training: kernels stay float32 arrays, and each product rounds its factors."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

import flax.struct
import gin
import jax
import jax.numpy as jnp

from gpt4x.errors import refuse
from gpt4x.models.parameters import Declaration, map_declared, Substitute

# (values, activations or weights; gradients), and what a product of them is accumulated in.
_DTYPES: dict[str, tuple[Any, Any, Any]] = {
    "int8": (jnp.int8, jnp.int8, jnp.int32), "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float32)}
_ROWS = 2**16  # The most that a gradient sums in one product: int32 has room for twice as many of 127 * 127.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TrainingProducts:
  """The `form` of a LanguageModel whose training multiplies hidden kernels in eight bits.

  A product's factors have a scale for each row and each output, by their largest magnitude (arXiv:2105.03536).
  Embeddings, logits, routers and experts are multiplied in the compute dtype, and so is all in evaluation and decoding.

  Attributes:
    format: 'int8', or 'fp8': e4m3, and e5m2 for gradients (arXiv:2209.05433).
    gradients: which products of the backward pass are rounded too: 'all', only those that give the gradients of
      'inputs', or 'none'.
  """

  format: Literal["int8", "fp8"] = "int8"
  gradients: Literal["all", "inputs", "none"] = "all"

  GIN_NAME: ClassVar[str] = "TrainingProducts"
  stored: ClassVar[bool] = False

  def __post_init__(self):
    refuse(self, self.format not in _DTYPES, "format", "is unknown: choose one of int8, fp8")
    refuse(self, self.gradients not in ("all", "inputs", "none"), "gradients",
           "is unknown: choose one of all, inputs, none")

  @property
  def share(self) -> float:
    """Of the three products with a kernel, those that are rounded."""
    return {"all": 3, "inputs": 2, "none": 1}[self.gradients] / 3

  def takes(self, declaration: Declaration) -> bool:
    return declaration.is_hidden and "expert" not in declaration.names

  def __call__(self, params: Any, declarations: Any) -> Any:
    return params

  def used(self, params: Any, declarations: Any, training: bool) -> Any:
    """What a model computes with."""
    if not training:
      return params
    return map_declared(lambda array, declaration: _Kernel(array, self) if self.takes(declaration) else array,
                        params, declarations)


@flax.struct.dataclass
class _Kernel(Substitute):
  array: jax.Array
  form: TrainingProducts = flax.struct.field(pytree_node=False)

  def dense(self, dtype):
    return self.array.astype(dtype)

  def product(self, x, summed):
    inputs = tuple(range(len(summed)))
    return rounded_product(x, jnp.moveaxis(self.array, summed, inputs), len(summed), self.form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def rounded_product(x: jax.Array, kernel: jax.Array, count: int, form: TrainingProducts) -> jax.Array:
  """x [..., *I] by a kernel [*I, *O] of `count` axes I, both rounded: [..., *O]."""
  values, _, sums = _DTYPES[form.format]
  inputs, outputs = _axes(x, kernel, count)
  left, steps = scaled(x, inputs, values)
  right, scales = scaled(kernel, tuple(range(count)), values)
  y = jnp.tensordot(left, right, (inputs, tuple(range(count))), preferred_element_type=sums)
  steps = steps.reshape(*x.shape[:inputs[0]], *[1] * len(outputs))
  return (y * steps * jnp.squeeze(scales, range(count))).astype(x.dtype)


def _forward(x, kernel, count, form):
  return rounded_product(x, kernel, count, form), (x, kernel)


def _backward(count, form, residuals, g):
  x, kernel = residuals
  return _gradient_of_inputs(x, kernel, count, form, g), _gradient_of_kernel(x, kernel, count, form, g)


rounded_product.defvjp(_forward, _backward)


def _gradient_of_inputs(x, kernel, count, form, g):
  _, outputs = _axes(x, kernel, count)
  last = tuple(range(g.ndim - len(outputs), g.ndim))
  if form.gradients == "none":
    return jnp.tensordot(g, kernel.astype(g.dtype), (last, outputs))
  values, small, sums = _DTYPES[form.format]
  left, steps = scaled(g, last, small)
  right, scales = scaled(kernel, outputs, values)
  y = jnp.tensordot(left, right, (last, outputs), preferred_element_type=sums)
  return (y * steps.reshape(*g.shape[:last[0]], *[1] * count) * jnp.squeeze(scales, outputs)).astype(x.dtype)


def _gradient_of_kernel(x, kernel, count, form, g):
  """Rows are summed in parts, each with scales of its own: GSPMD leaves a part to the devices that have its rows."""
  lead = x.ndim - count
  if form.gradients != "all" or not x.size:  # An empty memory has no rows.
    rows = tuple(range(lead))
    return jnp.tensordot(x, g, (rows, rows), preferred_element_type=jnp.float32).astype(kernel.dtype)
  values, small, sums = _DTYPES[form.format]
  size, parts = math.prod(x.shape[1:lead]), 1
  while parts < len(x) and (len(x) % parts or len(x) // parts * size > _ROWS):
    parts += 1
  rows = tuple(range(1, lead + 1))
  left, steps = scaled(x.reshape(parts, -1, *x.shape[1:]), rows, values)
  right, scales = scaled(g.reshape(parts, -1, *g.shape[1:]), rows, small)
  y = jax.lax.dot_general(left, right, ((rows, rows), ((0,), (0,))), preferred_element_type=sums)
  steps = jnp.squeeze(steps, rows).reshape(parts, *x.shape[lead:], *[1] * (g.ndim - lead))
  scales = jnp.squeeze(scales, rows).reshape(parts, *[1] * count, *g.shape[lead:])
  return jnp.sum(y * steps * scales, 0).astype(kernel.dtype)


def _axes(x, kernel, count) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The axes I of x, and the axes O of the kernel."""
  return tuple(range(x.ndim - count, x.ndim)), tuple(range(count, kernel.ndim))


def scaled(x: jax.Array, axes: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array]:
  """x in eight bits, whose largest magnitude along `axes` becomes the largest there is, and the float32 scales."""
  x = x.astype(jnp.float32)
  whole = jnp.issubdtype(dtype, jnp.integer)
  most = jnp.iinfo(dtype).max if whole else float(jnp.finfo(dtype).max)
  scales = jnp.maximum(jnp.max(jnp.abs(x), axes, keepdims=True), 1e-30) / most
  return (jnp.round(x / scales) if whole else x / scales).astype(dtype), scales
