"""Products of few rows by matrices of int8, as decoding steps make them.

On CPUs they are C++, which this machine's compiler makes when they are first traced: XLA's own product of integers is
for blocks of columns, most of which one row leaves empty. The products of 12 layers of width 512 take 2.0 ms of two
cores so, 5.6 by XLA's, 7.0 in float32. Elsewhere, and where there is no compiler, they are XLA's.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import math
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x import data, partitioning
from gpt4x.errors import one_line, UserError
from gpt4x.models.rounding import fine_product, LONGEST, rounded

_LOG = logging.getLogger(__name__)

FEW = 16  # Rows up to which the functions below are faster than XLA's.
_FINEST = 2**15 - 1  # Of 16 bits.
_SOURCE = pathlib.Path(__file__).with_suffix(".cc")
_FUNCTIONS = "gpt4x_rows_by_columns", "gpt4x_rows_by_rows"
_FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
          "-std=c++17", "-shared", "-fPIC", "-w")


def rows_by_columns(values: jax.Array, scales: jax.Array, x: jax.Array, bits: Literal[8, 15, 23] = 15) -> jax.Array:
  """x [..., R, I] by the columns of int8 [..., O, I], times scales [..., O]: float32 [..., R, O].

  Each row of x is rounded to integers of at least so many bits, with a step of its own.
  """
  if _native(x):
    fine = bits == 15 and x.shape[-1] * 127 * _FINEST < 2**31  # An int32 holds the sum.
    parts, most = (1, _FINEST) if fine else ({8: 1, 15: 2, 23: 3}[bits], 127)
    return _call(_FUNCTIONS[0], values, scales, x, values.shape[-2], parts=np.int32(parts), most=np.float32(most))
  if bits == 8:
    rows = rounded(x)
    y = _integer_rows_by_columns(values, rows.values).astype(jnp.float32) * rows.steps
  else:
    y = fine_product(functools.partial(_integer_rows_by_columns, values), x, 2 if bits == 15 else 3)
  return y * scales[..., None, :]


def rows_by_rows(values: jax.Array, scales: jax.Array, weights: jax.Array) -> jax.Array:
  """weights [..., R, T] by int8 [..., T, K] times scales [..., T]: float32 [..., R, K], sums of rows."""
  if _native(weights):
    return _call(_FUNCTIONS[1], values, scales, weights, values.shape[-1])
  weights = weights.astype(jnp.float32) * scales[..., None, :]
  if weights.shape[-1] > LONGEST:
    return jnp.einsum("...tk,...rt->...rk", values.astype(jnp.float32), weights)
  product = lambda rows: jnp.einsum("...tk,...rt->...rk", values, rows, preferred_element_type=jnp.int32)
  return fine_product(product, weights)


def _integer_rows_by_columns(values: jax.Array, rows: jax.Array) -> jax.Array:
  """int8 [..., O, I] by the columns of int8 [..., R, I]: int32 [..., R, O]."""
  # XLA's CPU backend is faster with the longer matrix in front, but would turn the product around. A single column it
  # gives to a slower loop: that gets a second, of zeros.
  count = rows.shape[-2]
  pad = [(0, 0)] * rows.ndim
  pad[-2] = (0, int(count == 1))
  y = jnp.einsum("...oi,...ri->...or", values, jnp.pad(rows, pad), preferred_element_type=jnp.int32)
  return jnp.swapaxes(jax.lax.optimization_barrier(y), -1, -2)[..., :count, :]


def _native(rows: jax.Array) -> bool:
  return rows.shape[-2] <= FEW and use_native()


def _call(name: str, values: jax.Array, scales: jax.Array, rows: jax.Array, size: int, **attributes: Any) -> jax.Array:
  found = jax.ShapeDtypeStruct((math.prod(rows.shape[:-2]), rows.shape[-2], size), jnp.float32)
  matrices = [x.reshape(-1, *x.shape[-axes:]) for x, axes in (
      (values, 2), (scales.astype(jnp.float32), 1), (rows.astype(jnp.float32), 2))]
  call = jax.ffi.ffi_call(name, found, vmap_method="sequential")
  return call(*matrices, **attributes).reshape(*rows.shape[:-1], size)


def use_native() -> bool:
  """Whether programs that are traced now are for this machine's CPU, alone, and it has the functions."""
  return (jax.default_backend() == "cpu" and not partitioning.is_planning()
          and jax.sharding.get_abstract_mesh().size <= 1 and _registered())


@functools.cache
def _registered() -> bool:
  compiler = _compiler()
  if compiler is None:
    _LOG.info("There is no C++ compiler: products of integers are XLA's, and decoding with int8 about half as fast.")
    return False
  try:
    library = ctypes.CDLL(str(_compiled(compiler)))
    for name in _FUNCTIONS:
      jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
  except (OSError, subprocess.CalledProcessError, UserError) as error:
    told = isinstance(error, subprocess.CalledProcessError) and error.stderr or error
    _LOG.warning("%s could not make %s, so decoding with int8 is about half as fast: %s", compiler, _SOURCE.name,
                    one_line(told))
    return False
  return True


def _compiler() -> str | None:
  return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def _compiled(compiler: str) -> pathlib.Path:
  """The library, made unless one of this source, jaxlib, compiler and processor is kept."""
  made_of = [_SOURCE.read_text(), importlib.metadata.version("jaxlib"), compiler, *_FLAGS, _processor()]
  key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
  folder = data.data_dir() / "native"
  library = folder / f"{_SOURCE.stem}-{key}.so"
  if not library.exists():
    data.make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as made:
      output = pathlib.Path(made) / library.name
      subprocess.run([compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", str(_SOURCE), "-o", str(output)], check=True,
                     stdin=subprocess.DEVNULL, capture_output=True, text=True)
      os.replace(output, library)
  return library


def _processor() -> str:
  """What this machine's processor is and can do."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor() or platform.machine()
  return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))
