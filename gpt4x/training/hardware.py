"""The devices at hand: their names, their peak FLOP/s, and model FLOPs utilization (MFU) against it.

MFU as in PaLM (arXiv:2204.02311, appendix B): the FLOPs that the model needs, over the peak of all devices. A training
step needs three times its forward pass. Attention counts, over the memory too; rematerialisation does not.
"""

import functools
from importlib import metadata
import json
import os
import pathlib
import platform
import re
import timeit

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x import __version__, run_directory, storage

# Published dense peaks of one JAX device in bfloat16 (V100 and T4: float16), in TFLOP/s. The first key that is found as
# a word of `device_kind` counts, so longer names stand before shorter ones.
_PEAK_TFLOPS = {
    # cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, per chip. v2, v3 and 7x show a chip as two devices.
    "TPU v2": 45 / 2, "TPU v3": 123 / 2, "TPU v4": 275,
    "TPU v5 lite": 197, "TPU v5e": 197, "TPU v5": 459, "TPU v5p": 459,
    "TPU v6 lite": 918, "TPU v6e": 918, "TPU7x": 2307 / 2,
    # Data sheets on nvidia.com; half of the figures that they give with sparsity.
    "T4": 65, "V100-PCIE": 112, "V100": 125, "A100": 312, "L4": 121,
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200 NVL": 835, "H200": 989, "GH200": 989,
    "B200": 2250, "GB200": 2500,
}


def peak_flops(dtype: str, num_devices: int) -> tuple[float, str]:
  """(FLOP/s of `num_devices` devices together, 'published'), or 'measured' where the table does not know the chip.

  `dtype` is that of the matrix product which measures. Simulated CPU devices share one machine, which counts once.
  """
  device = jax.devices()[0]
  peak = _published_peak(device.device_kind)
  if peak is not None:
    return peak * num_devices, "published"
  return _measured_peak(jnp.dtype(dtype).name) * (1 if device.platform == "cpu" else num_devices), "measured"


def _published_peak(device_kind: str) -> float | None:
  """FLOP/s of one device; None for chips that the table does not know."""
  return next((1e12 * tflops for name, tflops in _PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_kind)), None)


@functools.cache
def _measured_peak(dtype: str) -> float:
  """FLOP/s of one device (of the machine, on CPU) in the product of two square matrices: the median of five."""
  device = jax.local_devices()[0]
  size = 1024 if device.platform == "cpu" else 8192
  matrix = jax.device_put(np.ones((size, size), jnp.dtype(dtype)), device)
  product = jax.jit(jnp.matmul)
  multiply = lambda: product(matrix, matrix).block_until_ready()
  multiply()  # Compiles.
  seconds = timeit.repeat(multiply, number=1, repeat=5)
  return 2 * size**3 / float(np.median(seconds))


def write_environment(model_dir: str) -> None:
  """Writes DIR/environment.json: on what a run is trained, and with which versions."""
  versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")}
  found = {"hardware": _hardware(), "processes": jax.process_count(), "python": platform.python_version(),
           "versions": {"gpt4x": __version__} | versions}
  path = storage.path(model_dir) / run_directory.ENVIRONMENT
  storage.write(path, (json.dumps(found, indent=1) + "\n").encode())


def _hardware() -> str:
  """Such as "8 x TPU v5 lite"; a CPU by its model and the cores that this process may use."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{jax.device_count()} x {device.device_kind}"
  described = pathlib.Path("/proc/cpuinfo")
  text = described.read_text(errors="replace") if described.exists() else ""
  model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return f"{model[1] if model else platform.processor() or platform.machine()}, {cores} cores"
