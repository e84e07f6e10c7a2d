"""Compiles a step for TPUs that are not here: libtpu has the compiler and knows every topology."""

import dataclasses
import math
import os
from typing import Any

import jax

from gpt4x.errors import UserError
from gpt4x.partitioning import Partitioner
from gpt4x.planning import collectives
from gpt4x.planning.chips import Topology
from gpt4x.planning.steps import Step

# Products that overlap with their own communication become loops, and the compiler counts only one turn of a loop.
_NO_LOOPS: dict[str, str | bool] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one step on one device."""

  flops: float
  bytes: float  # Read from memory and written to it.
  seconds: float  # The compiler's own estimate.
  traffic: dict[str, float]  # Bytes sent, by mesh axes.

  def extrapolate(self, other: "Cost", units: float) -> "Cost":
    """The cost of `units`, a + b * units, from the cost of one (self) and of two (other)."""
    line = lambda one, two: one + (two - one) * (units - 1)
    traffic = {axes: line(self.traffic.get(axes, 0.0), other.traffic.get(axes, 0.0))
               for axes in {*self.traffic, *other.traffic}}
    return Cost(line(self.flops, other.flops), line(self.bytes, other.bytes), line(self.seconds, other.seconds),
                traffic)


def topology_devices(topology: Topology) -> list[Any]:
  """Devices of a topology, which only the compiler can use; raises ImportError without libtpu."""
  from jax.experimental import topologies
  import libtpu  # noqa: F401

  # Without these libtpu asks a metadata server about a local TPU, and complains that there is none.
  for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
                      ("TPU_ACCELERATOR_TYPE", "v5p-8"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
    os.environ.setdefault(name, value)
  # The default level takes three times as long and finds the same fusions and costs.
  jax.config.update("jax_optimization_level", "O1")
  options: dict[str, Any] = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
  if math.prod(topology.shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)  # Hosts of four are the default.
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices)
  except Exception as error:  # jaxlib raises its own kind.
    raise UserError(f"--topology={topology.name} is none that libtpu knows ({str(error).splitlines()[0]}): choose the"
                    " shape of a slice that exists") from error


def step_cost(step: Step, partitioner: Partitioner) -> tuple[Cost, list[collectives.Collective]]:
  """The cost of a whole step, and the collectives of two of its repeating blocks.

  The compiler counts the body of a loop once. So one block and two blocks are compiled, unrolled, and the rest is
  extrapolated; frozen models are unrolled whole. One microbatch is compiled and multiplied.
  """
  period, times, step = step.config.period, step.microbatches, step.part()

  def of(blocks: int) -> tuple[Cost, list[collectives.Collective]]:
    alone = step.replace_config(num_layers=blocks * period, scan_layers=False)
    compiled = alone.lower(partitioner).compile(_NO_LOOPS)
    analysis, text = compiled.cost_analysis(), compiled.as_text()
    found = collectives.parse(text, partitioner.mesh.shape)
    unknown = text.count('custom_call_target="PrepareAsyncCall')  # The compiler gives each of these -1 second.
    return Cost(analysis["flops"], analysis["bytes accessed"], analysis["optimal_seconds"] + unknown,
                collectives.by_axes(found)), found

  (one, _), (two, found) = of(1), of(2)
  whole = one.extrapolate(two, step.config.num_layers / period)
  traffic = {axes: times * sent for axes, sent in whole.traffic.items()}
  return Cost(times * whole.flops, times * whole.bytes, times * whole.seconds, traffic), found


def memory(lowered: jax.stages.Lowered) -> dict[str, float] | None:
  """Bytes of one device's HBM: inputs, outputs beyond them, what is needed between, and the program.

  None: there is no room, and so no program.
  """
  try:
    analysis: Any = lowered.compile().memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      return None
    raise
  return {"arguments": analysis.argument_size_in_bytes, "temporaries": analysis.temp_size_in_bytes,
          "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
          "program": analysis.generated_code_size_in_bytes}
