"""Integers of four bits that fit what kernels multiply, by second moments of it (see calibration.py)."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.compression import integers, second_order
from gpt4x.compression.calibration import from_matrices, matrices
from gpt4x.compression.quantization import Quantization
from gpt4x.models.parameters import Declaration

Method = Literal["round", "gptq", "awq"]
METHODS = ("round", "gptq", "awq")
_SHRINK = np.linspace(0.6, 1.0, 11)  # Of a group's range: a few large numbers may be cut for the sake of the others.
_POWERS = np.linspace(0, 1, 9)  # Of an input's size, that its weights are multiplied by before they are rounded.


def quantized(form: Quantization, params: Any, moments: Any, declarations: Any, method: Method) -> Any:
  """Parameters of a form, by second moments as `calibration.moments` gives them.

  'gptq' (arXiv:2210.17323) moves what is not yet rounded so as to make up for what is; 'awq' (arXiv:2306.00978)
  rounds finer what multiplies larger inputs. 'round' takes the nearest integers, and so do kernels of eight bits and
  those that multiplied nothing.
  """
  if method == "awq":
    form = dataclasses.replace(form, scaled_inputs=True)

  def one(declaration, array, moments=None):
    if form.bits(array.shape, declaration) != 4 or method == "round" or moments is None or not moments.any():
      return form.rounded(array, declaration)
    return (_gptq if method == "gptq" else _awq)(array, declaration, moments)

  trees = (declarations, params) if moments is None else (declarations, params, moments)
  return jax.tree.map(one, *trees, is_leaf=lambda x: isinstance(x, Declaration))


def _gptq(array: Any, declaration: Declaration, moments: np.ndarray) -> integers.Int4:
  kernels, moments, group = *_flat(array, declaration, moments), _group(array, declaration)
  levels, scales = np.empty(kernels.shape, np.float32), np.empty((len(kernels), kernels.shape[1] // group,
                                                                  kernels.shape[2]), np.float16)
  for i, (kernel, moment) in enumerate(zip(kernels, moments)):
    scales[i] = fitting_scales(kernel, np.diagonal(moment), group)
    each = np.repeat(scales[i].astype(np.float64), group, 0)
    if moment.any():
      kernel = second_order.rounded(kernel, moment, lambda row, place, each=each: _nearest(row, each[place]))
    levels[i] = np.clip(np.round(kernel / each), -8, 7)
  return _int4(levels, scales, array, declaration)


def _awq(array: Any, declaration: Declaration, moments: np.ndarray) -> integers.Int4:
  kernels, moments, group = *_flat(array, declaration, moments), _group(array, declaration)
  levels, scales = np.empty(kernels.shape, np.float32), np.empty((len(kernels), kernels.shape[1] // group,
                                                                  kernels.shape[2]), np.float16)
  inputs = np.ones((*kernels.shape[:2], 1), np.float16)
  for i, (kernel, moment) in enumerate(zip(kernels, moments)):
    size = np.sqrt(np.maximum(np.diagonal(moment), 1e-12 * max(np.diagonal(moment).max(), 1e-30)))
    best = np.inf
    for power in _POWERS:
      factor = size**power
      factor = (factor / np.exp(np.mean(np.log(factor))))[:, None]
      shrunk = (1 / factor).astype(np.float16)
      larger = kernel / shrunk
      found = fitting_scales(larger, np.diagonal(moment) * np.square(shrunk[:, 0], dtype=np.float64), group)
      each = np.repeat(found.astype(np.float64), group, 0)
      rounded = np.clip(np.round(larger / each), -8, 7)
      error = kernel - rounded * each * shrunk
      if (loss := np.sum(error * (moment @ error))) < best:
        best, levels[i], scales[i], inputs[i] = loss, rounded, found, shrunk
  shape = [size if axis in declaration.summed_axes or name in ("layers", "expert") else 1
           for axis, (size, name) in enumerate(zip(array.shape, declaration.names))]
  return _int4(levels, scales, array, declaration, jnp.asarray(from_matrices(inputs, tuple(shape), declaration)))


def fitting_scales(kernel: np.ndarray, weights: np.ndarray, group: int) -> np.ndarray:
  """float16 scales [I / group, O], of `int4_scales` and shrunk ones those with the least error, weighted by input."""
  split = kernel.reshape(-1, group, kernel.shape[1])
  widest = np.asarray(integers.int4_scales(jnp.asarray(kernel, jnp.float32), 0), np.float64)
  weights = weights.reshape(-1, group, 1) + 1e-12 * max(weights.max(), 1e-30)
  best, found = np.full(widest.shape, np.inf), widest.astype(np.float16)
  for shrink in _SHRINK:
    scales = (widest * shrink).astype(np.float16)
    scales = np.where(scales == 0, found, scales)
    each = scales[:, None].astype(np.float64)
    error = np.sum(weights * np.square(split - np.clip(np.round(split / each), -8, 7) * each), 1)
    found, best = np.where(error < best, scales, found), np.minimum(error, best)
  return found


def _flat(array, declaration, moments):
  kernels = matrices(array, declaration).astype(np.float64)
  return kernels, moments.reshape(len(kernels), *moments.shape[-2:])


def _group(array, declaration) -> int:
  return integers.group_of(array.shape[declaration.summed_axes[-1]])


def _nearest(row: np.ndarray, scales: np.ndarray) -> np.ndarray:
  return np.clip(np.round(row / scales), -8, 7) * scales


def _int4(levels, scales, array, declaration, inputs=None) -> integers.Int4:
  axis = declaration.summed_axes[-1]
  shape = list(array.shape)
  whole = from_matrices(levels, tuple(shape), declaration)
  shape[axis] //= _group(array, declaration)
  return integers.packed(jnp.asarray(whole), axis, jnp.asarray(from_matrices(scales, tuple(shape), declaration)), inputs)
