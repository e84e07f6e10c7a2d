"""Weights that become zero: in arrays of the same shape, which take part in everything as before."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.compression import second_order
from gpt4x.compression.calibration import from_matrices, matrices
from gpt4x.errors import UserError
from gpt4x.models.parameters import Declaration

METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclasses.dataclass(frozen=True)
class Sparsity:
  """How much becomes zero: a share of each kernel, or in each `pattern[1]` neighbouring inputs all but `pattern[0]`."""

  share: float
  pattern: tuple[int, int] | None = None

  @classmethod
  def of(cls, text: str) -> "Sparsity":
    """Of '50%' or '2:4'."""
    if (found := re.fullmatch(r"(\d+(?:\.\d+)?)%", text)) and 0 < float(found[1]) < 100:
      return cls(float(found[1]) / 100)
    if (found := re.fullmatch(r"([1-9]\d?):([1-9]\d?)", text)) and int(found[1]) < int(found[2]) <= 64:
      kept, of = int(found[1]), int(found[2])
      return cls(1 - kept / of, (kept, of))
    raise UserError(f"{text!r} is no sparsity: write a share such as 50%, or how many of so many stay, such as 2:4")


def is_pruned(declaration: Declaration) -> bool:
  """Kernels from hidden features to hidden ones: neither embeddings nor output, norms, biases and routers."""
  return declaration.is_hidden


def pruned(params: Any, moments: Any, declarations: Any, method: str, sparsity: Sparsity) -> Any:
  """Parameters with zeros.

  'magnitude' takes the smallest of a kernel; 'wanda' (arXiv:2306.11695) for each output those that are smallest times
  the size of their inputs; 'sparsegpt' (arXiv:2301.00774) moves what stays so as to make up for what goes. Kernels
  that multiplied nothing on the text go by magnitude.

  Args:
    params, declarations: of a model.
    moments: as `calibration.moments` has them; None for 'magnitude'.
    method: one of METHODS.
    sparsity: of each kernel.
  """
  def one(declaration, array, found=None):
    if not is_pruned(declaration):
      return array
    kernels = matrices(array, declaration)
    found = np.zeros((len(kernels), 0, 0)) if found is None else found.reshape(len(kernels), *found.shape[-2:])
    made = np.stack([_one(kernel, moment, method, sparsity) for kernel, moment in zip(kernels, found)])
    return jnp.asarray(from_matrices(made.astype(array.dtype), array.shape, declaration))

  trees = (declarations, params) if moments is None else (declarations, params, moments)
  return jax.tree.map(one, *trees, is_leaf=lambda x: isinstance(x, Declaration))


def _one(kernel: np.ndarray, moments: np.ndarray, method: str, sparsity: Sparsity) -> np.ndarray:
  """W [I, O] with zeros."""
  if method == "magnitude" or not moments.any():
    scores, whole = np.abs(kernel), True
  elif method == "sparsegpt":
    return second_order.pruned(kernel, moments, sparsity.share, sparsity.pattern)
  else:
    scores, whole = np.abs(kernel) * np.sqrt(np.diagonal(moments))[:, None], False
  if sparsity.pattern:
    keep = second_order.largest(scores, *sparsity.pattern)
  elif whole:
    keep = np.ones(scores.size, bool)
    keep[np.argsort(scores, axis=None, kind="stable")[:round(sparsity.share * scores.size)]] = False
    keep = keep.reshape(scores.shape)
  else:
    keep = np.ones(scores.shape, bool)
    smallest = np.argsort(scores, 0, kind="stable")[:round(sparsity.share * len(scores))]
    np.put_along_axis(keep, smallest, False, 0)
  return np.where(keep, kernel, 0)
