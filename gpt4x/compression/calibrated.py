"""Integers of four bits that fit what kernels multiply, by second moments of it (see calibration.py)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.compression import integers, second_order
from gpt4x.compression.calibration import from_matrices, matrices
from gpt4x.compression.quantization import Quantization
from gpt4x.models.parameters import Declaration

Method = Literal["round", "gptq", "awq"]
_SHRINK = np.linspace(0.6, 1.0, 11)  # Of a group's range: a few large numbers may be cut for the sake of the others.
_POWERS = np.linspace(0, 1, 9)  # Of an input's size, that its weights are multiplied by before they are rounded.


def quantized(form: Quantization, params: Any, moments: Any, declarations: Any, method: Method) -> Any:
  """Parameters of a form, by second moments as `calibration.moments` gives them; 'round' needs none.

  'gptq' (arXiv:2210.17323) moves what is not yet rounded so as to make up for what is; 'awq' (arXiv:2306.00978)
  rounds finer what multiplies larger inputs. 'round' takes the nearest integers, and so do kernels of eight bits and
  those that multiplied nothing.
  """
  fit = {"gptq": _gptq, "awq": _awq}.get(method)

  def one(declaration, array, moments=None):
    if fit is None or moments is None or not moments.any() or form.bits(array.shape, declaration) != 4:
      return form.rounded(array, declaration)
    kernels, group = matrices(array, declaration), integers.group_of(array.shape[declaration.summed_axes[-1]])
    each = [fit(kernel.astype(np.float64), moment, group)
            for kernel, moment in zip(kernels, moments.reshape(len(kernels), *moments.shape[-2:]))]
    levels, scales, inputs = (np.stack(found) for found in zip(*each))
    axis, whole = declaration.summed_axes[-1], array.shape
    of_groups = [size // group if i == axis else size for i, size in enumerate(whole)]
    back = lambda found, shape: jnp.asarray(from_matrices(found, shape, declaration))
    return integers.packed(back(levels, whole), axis, back(scales, of_groups), back(
        inputs, form.shape_of_inputs(whole, declaration)) if form.scaled_inputs else None)

  trees = (declarations, params) if moments is None else (declarations, params, moments)
  return jax.tree.map(one, *trees, is_leaf=lambda x: isinstance(x, Declaration))


# W [I, O] and its inputs' moments [I, I] -> levels [I, O], scales [I / group, O], factors of inputs [I, 1].


def _gptq(kernel: np.ndarray, moments: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  scales = fitting_scales(kernel, np.diagonal(moments), group)
  each = _each(scales, group)
  if moments.any():
    kernel = second_order.rounded(kernel, moments, lambda row, place: _levels(row, each[place]) * each[place])
  return _levels(kernel, each), scales, np.ones((len(kernel), 1), np.float16)


def _awq(kernel: np.ndarray, moments: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  sizes = np.diagonal(moments)
  sizes = np.sqrt(np.maximum(sizes, 1e-12 * max(sizes.max(), 1e-30)))
  found = []
  for power in _POWERS:
    factors = (np.exp(np.mean(np.log(sizes**power))) / sizes**power)[:, None].astype(np.float16)
    larger = kernel / factors
    scales = fitting_scales(larger, np.diagonal(moments) * np.square(factors[:, 0], dtype=np.float64), group)
    levels = _levels(larger, _each(scales, group))
    error = kernel - levels * _each(scales, group) * factors
    found.append((np.sum(error * (moments @ error)), levels, scales, factors))
  return min(found, key=lambda one: one[0])[1:]


def _levels(kernel: np.ndarray, scales: np.ndarray) -> np.ndarray:
  return np.clip(np.round(kernel / scales), -8, 7)


def _each(scales: np.ndarray, group: int) -> np.ndarray:
  return np.repeat(scales.astype(np.float64), group, 0)


def fitting_scales(kernel: np.ndarray, weights: np.ndarray, group: int) -> np.ndarray:
  """float16 scales [I / group, O], of `int4_scales` and shrunk ones those with the least error, weighted by input."""
  split = kernel.reshape(-1, group, kernel.shape[1])
  widest = np.asarray(integers.int4_scales(jnp.asarray(kernel, jnp.float32), 0, group), np.float64)
  weights = weights.reshape(-1, group, 1) + 1e-12 * max(weights.max(), 1e-30)
  best, found = np.full(widest.shape, np.inf), widest.astype(np.float16)
  for shrink in _SHRINK:
    scales = (widest * shrink).astype(np.float16)
    scales = np.where(scales == 0, found, scales)
    each = scales[:, None].astype(np.float64)
    error = np.sum(weights * np.square(split - np.clip(np.round(split / each), -8, 7) * each), 1)
    found, best = np.where(error < best, scales, found), np.minimum(error, best)
  return found
