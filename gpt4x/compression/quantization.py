"""Quantization: which kernels of a model are integers, and how they become so."""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.struct
import gin
import jax
import jax.numpy as jnp

from gpt4x.compression import integers
from gpt4x.errors import refuse
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import contract, Declaration, map_declared, Substitute
from gpt4x.models.rounding import rounded


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

  def __call__(self, params: Any, declarations: Any) -> Any:
    """Parameters with the nearest integers in the places of kernels."""
    return map_declared(self.rounded, params, declarations)

  def rounded(self, array: jax.Array, declaration: Declaration) -> Any:
    bits = self.bits(array.shape, declaration)
    if bits == 32:
      return array
    if bits == 8:
      return integers.to_int8(array, declaration.summed_axes, self.activations)
    inputs = jnp.ones(self.shape_of_inputs(array.shape, declaration), jnp.float16) if self.scaled_inputs else None
    return integers.to_int4(array, declaration.summed_axes[-1], inputs=inputs)

  def shape_of_inputs(self, shape: tuple[int, ...], declaration: Declaration) -> tuple[int, ...]:
    """Of the factors of a kernel's inputs."""
    kept = *declaration.summed_axes, *declaration.leading_axes
    return tuple(size if axis in kept else 1 for axis, size in enumerate(shape))

  def used(self, params: Any, declarations: Any, training: bool) -> Any:
    """What a model computes with, in training and otherwise."""
    del training
    if self.stored:
      return params

    def one(array, declaration):
      near = self.rounded(array, declaration)
      return _Rounded(array, near, self.activations) if isinstance(near, Substitute) else array

    return map_declared(one, params, declarations)


def quantized_model(model: LanguageModel, how: str, scaled_inputs: bool = False) -> LanguageModel:
  """The model with stored integers, 'int8' or 'int4'; 'int8-all' makes products and the memory of decoding int8 too."""
  everything = how == "int8-all"
  form = Quantization("int4" if how == "int4" else "int8", everything, scaled_inputs, stored=True)
  return LanguageModel(dataclasses.replace(model.config, memory_dtype="int8") if everything else model.config, form)


STORED = (Quantization("int8", stored=True), Quantization("int4", stored=True),
          Quantization("int4", scaled_inputs=True, stored=True))


def arrays(params: Any, declarations: Any) -> Any:
  """Float32 arrays in the places of what stands in for kernels."""
  return map_declared(lambda param, _: param.dense(jnp.float32) if isinstance(param, Substitute) else param,
                      params, declarations)


@flax.struct.dataclass
class _Rounded(Substitute):
  """A kernel that is used rounded, and whose gradient is the rounded one's (arXiv:1308.3432)."""

  array: jax.Array
  rounded: Any
  activations: bool = flax.struct.field(pytree_node=False)

  def dense(self, dtype):
    near = jax.lax.stop_gradient(self.rounded).dense(jnp.float32)
    return (self.array + jax.lax.stop_gradient(near - self.array)).astype(dtype)

  def product(self, x, summed):
    if self.activations:
      axes = tuple(range(x.ndim - len(summed), x.ndim))
      x += jax.lax.stop_gradient(rounded(x, axes).dense(x.dtype) - x)
    return contract(x, self.dense(x.dtype), summed)
