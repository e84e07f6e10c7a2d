"""Quantization: which kernels of a model are integers, and how they become so."""

import dataclasses
from typing import Any, ClassVar, Literal

import gin
import jax
import jax.numpy as jnp

from gpt4x.compression import integers
from gpt4x.errors import refuse
from gpt4x.models.parameters import contract, Declaration, Substitute

Params, Declarations = Any, Any


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Quantization:
  """Kernels as integers: the `form` of a LanguageModel.

  All are quantized, embeddings and output too, but routers, whose few numbers decide much. Where a kernel cannot be
  cut into groups for four bits, it has eight.

  Attributes:
    weights: 'int8': a scale for each output. 'int4': a scale for each output and 32 neighbours that are summed.
    activations: whether products round each row of what they multiply to int8 as well (int8 only).
    scaled_inputs: whether there are factors for inputs (int4 only; arXiv:2306.00978).
    stored: whether the parameters are the integers. False: they are float32, and each use of them rounds them, with
      the gradient of what is not rounded: quantization-aware training.
  """

  weights: Literal["int8", "int4"] = "int8"
  activations: bool = False
  scaled_inputs: bool = False
  stored: bool = False

  GIN_NAME: ClassVar[str] = "Quantization"

  def __post_init__(self):
    refuse(self, self.weights not in ("int8", "int4"), "weights", "is unknown: choose one of int8, int4")
    refuse(self, self.activations and self.weights != "int8", "activations", "needs weights = 'int8': change either")
    refuse(self, self.scaled_inputs and self.weights != "int4", "scaled_inputs",
           "needs weights = 'int4': change either")

  def is_quantized(self, declaration: Declaration) -> bool:
    return declaration.is_kernel and None not in declaration.names

  def bits(self, shape: tuple[int, ...], declaration: Declaration) -> int:
    """4 or 8; 32 for what is left alone."""
    if not self.is_quantized(declaration):
      return 32
    return 4 if self.weights == "int4" and integers.group_of(shape[declaration.summed_axes[-1]]) else 8

  def __call__(self, params: Params, declarations: Declarations) -> Params:
    """Parameters with the nearest integers in the places of kernels."""
    return by_declaration(self.rounded, params, declarations)

  def rounded(self, array: jax.Array, declaration: Declaration) -> Any:
    bits = self.bits(array.shape, declaration)
    if bits == 32:
      return array
    if bits == 8:
      return integers.to_int8(array, declaration.summed_axes, self.activations)
    inputs = None
    if self.scaled_inputs:
      inputs = jnp.ones([size if axis in declaration.summed_axes or name == "layers" else 1 for axis, (size, name)
                         in enumerate(zip(array.shape, declaration.names))], jnp.float16)
    return integers.to_int4(array, declaration.summed_axes[-1], inputs=inputs)

  def used(self, params: Params, declarations: Declarations) -> Params:
    """What a model computes with."""
    if self.stored:
      return params

    def one(array, declaration):
      rounded = self.rounded(array, declaration)
      return _Rounded(array, rounded, self.activations) if isinstance(rounded, Substitute) else rounded

    return by_declaration(one, params, declarations)


def by_declaration(function: Any, params: Params, declarations: Declarations) -> Params:
  """`function(parameter, its declaration)` in the place of each parameter, a Substitute being one."""
  return jax.tree.map(lambda declaration, param: function(param, declaration), declarations, params,
                      is_leaf=lambda x: isinstance(x, Declaration))


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class _Rounded(Substitute):
  """A kernel that is used rounded, and whose gradient is the rounded one's (arXiv:1308.3432)."""

  array: jax.Array
  rounded: Any
  activations: bool

  def tree_flatten(self):
    return (self.array, self.rounded), self.activations

  @classmethod
  def tree_unflatten(cls, activations, children):
    return cls(*children, activations)

  def dense(self, dtype):
    rounded = jax.lax.stop_gradient(self.rounded).dense(jnp.float32)
    return (self.array + jax.lax.stop_gradient(rounded - self.array)).astype(dtype)

  def product(self, x, summed):
    if self.activations:
      axes = tuple(range(x.ndim - len(summed), x.ndim))
      values, steps = integers.rounded_rows(jax.lax.stop_gradient(x), axes)
      x += jax.lax.stop_gradient((values * steps).astype(x.dtype) - x)
    return contract(x, self.dense(x.dtype), summed)
