"""Peak FLOP/s of the devices at hand, and model FLOPs utilization (MFU) against it.

MFU as in PaLM (arXiv:2204.02311, appendix B): the FLOPs that the model needs, not those that the program runs, over
the peak of all devices. A training step needs three times its forward pass, the backward pass being two. What
rematerialisation repeats is not counted; attention is, over the memory too, as the model's configuration counts it.
"""

import functools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

# Published dense peaks of one JAX device in bfloat16, or in float16 where that is all there is (V100, T4), in TFLOP/s.
# The first key found as a word of `device_kind` counts, so the longer ones stand first.
_PEAK_TFLOPS = {
    # cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, per chip. v2, v3 and 7x show a chip as two devices.
    "TPU v2": 45 / 2,
    "TPU v3": 123 / 2,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 2307 / 2,
    # Data sheets on nvidia.com; half of the figures that they give with sparsity.
    "T4": 65,
    "V100-PCIE": 112,
    "V100": 125,
    "A100": 312,
    "L4": 121,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200 NVL": 835,
    "H200": 989,
    "GH200": 989,
    "B200": 2250,
    "GB200": 2500,
}


def peak_flops(dtype: str, num_devices: int) -> tuple[float, str]:
  """Peak FLOP/s of so many devices together, and where it is from.

  Args:
    dtype: the compute dtype; it matters only where the peak is measured.
    num_devices: of the mesh.

  Returns:
    (FLOP/s, 'published'), or (FLOP/s, 'measured') on chips that the table does not know, by a matrix product. Simulated
    CPU devices share one machine, which counts once.
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
  product(matrix, matrix).block_until_ready()
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    product(matrix, matrix).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / float(np.median(seconds))
