"""What a step needs of each device of a topology: by formula, or by the TPU compiler."""

import dataclasses
from typing import Any, NamedTuple

from gpt4x.partitioning import Partitioner
from gpt4x.planning import compiler, estimate
from gpt4x.planning.chips import Topology
from gpt4x.planning.collectives import Collective
from gpt4x.planning.compiler import Cost
from gpt4x.planning.steps import Step

SPARE = 0.10  # The fraction of memory to leave free.


class Formulas(NamedTuple):
  """What stands in for the compiler."""

  temporaries: float
  cost: Cost


@dataclasses.dataclass(frozen=True)
class Needs:
  """A step on a topology, as JSON has it; bytes and FLOPs are those of one device."""

  topology: str
  devices: int
  mesh: dict[str, int]
  source: str  # 'compiler' or 'formula'
  memory: dict[str, float]  # Bytes of params, temporaries and so on.
  hbm: float
  flops: float
  bytes: float
  traffic: dict[str, float]  # Bytes sent, by mesh axes.
  seconds: dict[str, float]  # The roofline's parts.
  roofline: float  # Seconds of a step in which all of these overlap.
  compiled: float | None  # Seconds of a step by the compiler's own estimate.

  @property
  def spare(self) -> float:
    return 1 - sum(self.memory.values()) / self.hbm

  @property
  def slower(self) -> float:
    """Seconds of a step."""
    return max(self.roofline, self.compiled or 0.0)

  @property
  def place(self) -> str:
    mesh = " x ".join(f"{name}={size}" for name, size in self.mesh.items())
    return f"{self.topology}, {self.devices:,} devices: mesh {mesh}"


def of(step: Step, parts: dict[str, Any], partitioner: Partitioner, topology: Topology, formulas: Formulas,
       compiled: bool) -> tuple[Needs, list[Collective]]:
  """The needs of a step, whose `parts` are what stays on the devices; if `compiled`, the collectives of two blocks."""
  memory, cost = {name: estimate.device_bytes(tree) for name, tree in parts.items()}, formulas.cost
  held, sent = sum(memory.values()), list[Collective]()
  found = compiler.memory(step.lower(partitioner)) if compiled else None
  if found:
    memory["batch"] = found.pop("arguments") - held
    memory |= found
  else:
    memory["temporaries"] = formulas.temporaries
    if compiled:  # There was no room.
      memory["temporaries"] = max(formulas.temporaries, topology.chip.hbm - held)
  if compiled:
    cost, sent = compiler.step_cost(step, partitioner)
  seconds = estimate.seconds(cost, topology, partitioner, step.int8_share)
  return Needs(
      topology=str(topology), devices=topology.num_devices, mesh=dict(partitioner.mesh.shape),
      source="compiler" if compiled else "formula", memory=memory, hbm=topology.chip.hbm, flops=cost.flops,
      bytes=cost.bytes, traffic=cost.traffic, seconds=seconds, roofline=max(seconds.values()),
      compiled=cost.seconds if compiled else None), sent
