"""The collectives of a compiled program: their bytes, and the mesh axes they run over."""

from collections.abc import Mapping
import dataclasses
import math
import re

import numpy as np

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2,
          "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
# Bytes that each device of a ring of n sends, per byte of the result on one device.
_TRAFFIC = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
_INSTRUCTION = re.compile(
    r"= (?P<type>\(.*?\)|\S+) (?P<kind>" + "|".join(sorted(_TRAFFIC, key=len, reverse=True)) + r")(?P<start>-start)?\(")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction."""

  kind: str  # 'all-gather' or another name of `_TRAFFIC`.
  axes: str  # Mesh axes, 'data' or 'fsdp x expert'.
  size: int  # Devices in a group.
  result_bytes: float

  @property
  def traffic(self) -> float:
    """Bytes that each device sends."""
    return self.result_bytes * _TRAFFIC[self.kind](self.size)


def parse(hlo: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
  """The collectives in an optimised HLO text, without those of one device; one in a loop counts once."""
  found = []
  for line in hlo.splitlines():
    match = _INSTRUCTION.search(line)
    group = _first_group(line, math.prod(mesh_shape.values())) if match else ()
    if len(group) > 1:
      coordinates = np.unravel_index(group, tuple(mesh_shape.values()))
      axes = " x ".join(name for name, places in zip(mesh_shape, coordinates) if len(set(places.tolist())) > 1)
      found.append(Collective(match["kind"], axes, len(group), _result_bytes(match["type"], bool(match["start"]))))
  return found


def by_axes(collectives: list[Collective]) -> dict[str, float]:
  """Bytes that each device sends, by mesh axes."""
  return {axes: sum(one.traffic for one in collectives if one.axes == axes)
          for axes in dict.fromkeys(one.axes for one in collectives)}


def _result_bytes(text: str, started: bool) -> float:
  """Bytes of an HLO type. A tuple counts whole, but an asynchronous start's only by its largest part, the result."""
  sizes = [_BYTES[dtype] * math.prod(int(dim) for dim in dims.split(",") if dim)
           for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", text) if dtype in _BYTES]
  return max(sizes, default=0) if started else sum(sizes)


def _first_group(line: str, num_devices: int) -> np.ndarray:
  """Device numbers of the first group of an instruction; all devices if it names no groups."""
  if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
    return np.array([int(match[1]), int(match[2])])
  if match := re.search(
      r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}", line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
    used = set(re.findall(r"'(\w+)'", match[4]))
    ids = _iota(match[2] or str(math.prod(sizes.values())), match[3]).reshape(tuple(sizes.values()))
    return ids[tuple(slice(None) if name in used else 0 for name in sizes)].ravel()
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
    return _iota(match[3], match[4]).reshape(int(match[1]), int(match[2]))[0]
  if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
    return np.array(list(map(int, match[1].split(","))))
  return np.arange(num_devices)


def _iota(dims: str, order: str | None) -> np.ndarray:
  """XLA's short form of a list of devices: [dims]T(order)."""
  numbers = lambda text: tuple(map(int, text.split(",")))
  ids = np.arange(math.prod(numbers(dims))).reshape(numbers(dims))
  return ids.transpose(numbers(order)) if order else ids
