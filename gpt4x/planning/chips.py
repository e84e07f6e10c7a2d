"""TPU chips: the figures that a roofline needs."""

import dataclasses
import math
import re

from gpt4x.errors import CommandError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One JAX device."""

  name: str
  peak: float  # FLOP/s in bfloat16.
  int8_peak: float  # The same of products of int8.
  hbm: float  # Bytes that the compiler lets a program use.
  hbm_bandwidth: float  # Bytes per second, as below.
  link_bandwidth: float  # One inter-chip link in one direction; a chip has two such links on each torus axis.
  torus_dims: int
  network_bandwidth: float  # A chip's share of the network between slices, in one direction.


# Peaks and memories are from cloud.google.com/tpu/docs, bandwidths from jax-ml.github.io/scaling-book/tpus; the network
# has 25 GB/s for a host of four chips (v5e, v6e: eight). The runtime keeps 1% of memory.
CHIPS = {chip.name: chip for chip in (
    Chip("v4", 275e12, 275e12, 32 * GIB * 0.99, 1.2e12, 4.5e10, 3, 6.25e9),
    Chip("v5e", 197e12, 393e12, 16 * GIB * 0.99, 8.1e11, 4.5e10, 2, 3.125e9),
    Chip("v5p", 459e12, 918e12, 95 * GIB * 0.99, 2.8e12, 9e10, 3, 6.25e9),
    Chip("v6e", 918e12, 1836e12, 32 * GIB * 0.99, 1.6e12, 9e10, 2, 3.125e9),
)}


@dataclasses.dataclass(frozen=True)
class Topology:
  """One or several slices, each a torus of chips."""

  chip: Chip
  shape: tuple[int, ...]
  num_slices: int = 1

  @property
  def name(self) -> str:
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  @property
  def num_devices(self) -> int:
    return math.prod(self.shape) * self.num_slices

  def __str__(self) -> str:
    return self.name if self.num_slices == 1 else f"{self.num_slices} slices of {self.name}"


def parse_topology(text: str, num_slices: int = 1) -> Topology:
  """Parses `v5p:8x16x16`."""
  name, _, dims = text.partition(":")
  if name not in CHIPS:
    raise CommandError(f"--topology={text}: unknown chip {name}{nearest(name, CHIPS)} (known: {', '.join(CHIPS)})")
  chip = CHIPS[name]
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", dims) or dims.count("x") != chip.torus_dims - 1:
    raise CommandError(f"--topology={text}: write {name} with {chip.torus_dims} sizes, such as"
                       f" {name}:{'x'.join(['4'] * chip.torus_dims)}")
  return Topology(chip, tuple(map(int, dims.split("x"))), num_slices)
