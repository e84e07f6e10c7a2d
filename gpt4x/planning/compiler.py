"""A training step through the real TPU compiler, which needs no TPU: libtpu knows every topology."""

import dataclasses
import math
import os
from typing import Any

import jax

from gpt4x.data.stream import FEATURES
from gpt4x.errors import UserError
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.planning import collectives
from gpt4x.planning.chips import Topology
from gpt4x.training.config import TrainConfig
from gpt4x.training.gradients import whole
from gpt4x.training.initial_state import state_shapes
from gpt4x.training.step import TrainStep

# Products that overlap with their own communication piece by piece are loops, of which the compiler counts one turn.
_NO_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


@dataclasses.dataclass(frozen=True)
class Step:
  """What is compiled: a training step on B rows of L tokens, with a memory of M."""

  train_step: TrainStep
  batch_size: int
  segment_length: int
  memory_length: int
  microbatches: int = 1

  @classmethod
  def of(cls, config: TrainConfig) -> "Step":
    """The step of a run, checked to fit its mesh; on a TPU a dtype of 'auto' means bfloat16."""
    experiment = config.experiment
    config.partitioner.check_batch(experiment.dataset.batch_size, config.microbatches)
    step = cls(config.step, experiment.dataset.batch_size, experiment.dataset.segment_length,
               experiment.memory_length, config.microbatches)
    return step.replace_config(dtype="bfloat16") if step.config.dtype == "auto" else step

  @property
  def config(self) -> TransformerConfig:
    return self.train_step.model.config

  def state(self, partitioner: Partitioner) -> Any:
    return state_shapes(self.train_step, self.batch_size, self.memory_length, partitioner)

  def replace_config(self, **changes: Any) -> "Step":
    model = LanguageModel(dataclasses.replace(self.config, **changes))
    return dataclasses.replace(self, train_step=dataclasses.replace(self.train_step, model=model))

  def microbatch(self) -> "Step":
    """The step on the rows of one microbatch."""
    return dataclasses.replace(self, train_step=dataclasses.replace(self.train_step, gradients=whole),
                               batch_size=self.batch_size // self.microbatches, microbatches=1)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one step on one device: arithmetic, memory traffic, the compiler's own estimate of seconds, communication."""

  flops: float
  bytes: float
  seconds: float
  traffic: dict[str, float]  # Bytes sent, by mesh axes.

  def extrapolate(self, other: "Cost", units: float) -> "Cost":
    """The cost of `units` given those of one (self) and of two (other): a + b * units."""
    line = lambda one, two: one + (two - one) * (units - 1)
    axes = {*self.traffic, *other.traffic}
    traffic = {name: line(self.traffic.get(name, 0.0), other.traffic.get(name, 0.0)) for name in axes}
    return Cost(line(self.flops, other.flops), line(self.bytes, other.bytes), line(self.seconds, other.seconds),
                traffic)


def topology_devices(topology: Topology) -> list[Any]:
  """The devices of a topology, for the compiler only; raises ImportError without libtpu."""
  from jax.experimental import topologies
  import libtpu  # noqa: F401

  # Or libtpu asks a metadata server about the TPU that is not here, and complains.
  for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
                      ("TPU_ACCELERATOR_TYPE", "v5p-8"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
    os.environ.setdefault(name, value)
  # The default level takes three times as long, for the same fusions and costs.
  jax.config.update("jax_optimization_level", "O1")
  options = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
  if math.prod(topology.shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)  # Hosts of four are the default.
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices)
  except Exception as error:  # jaxlib raises its own kind.
    raise UserError(f"--topology={topology.name} is none that libtpu knows ({str(error).splitlines()[0]}): choose the"
                    " shape of a slice that exists") from error


def compile_step(step: Step, partitioner: Partitioner, options: dict[str, Any] | None = None) -> jax.stages.Compiled:
  """Compiles the very step that `gpt4x train` runs, for the partitioner's mesh."""
  shapes = step.state(partitioner)
  rows = partitioner.sharding("batch", None)
  batch = {name: jax.ShapeDtypeStruct((step.batch_size, step.segment_length), dtype, sharding=rows)
           for name, dtype in FEATURES.items()}
  with partitioner.activate():
    lowered = step.train_step.jit(shapes).lower(shapes, batch)
  return lowered.compile(options)


def cost(compiled: jax.stages.Compiled, partitioner: Partitioner) -> tuple[Cost, list[collectives.Collective]]:
  """The cost of a program without loops, for the compiler counts the body of a loop once."""
  analysis, text = compiled.cost_analysis(), compiled.as_text()
  found = collectives.parse(text, partitioner.mesh.shape)
  unknown = text.count('custom_call_target="PrepareAsyncCall')  # Of each the compiler says -1 second.
  return Cost(analysis["flops"], analysis["bytes accessed"], analysis["optimal_seconds"] + unknown,
              collectives.by_axes(found)), found


def step_cost(step: Step, partitioner: Partitioner) -> tuple[Cost, list[collectives.Collective]]:
  """The cost of a whole step, from programs of one and of two of its repeating blocks, unrolled; and the latter's
  collectives.

  Microbatches are a loop as well: one is compiled and counted as often, and the optimizer, too often, with it.
  """
  period, times = step.config.period, step.microbatches
  step = step.microbatch()
  (one, _), (two, found) = (
      cost(compile_step(step.replace_config(num_layers=blocks * period, scan_layers=False), partitioner, _NO_LOOPS),
           partitioner)
      for blocks in (1, 2))
  whole = one.extrapolate(two, step.config.num_layers / period)
  traffic = {axes: times * sent for axes, sent in whole.traffic.items()}
  return Cost(times * whole.flops, times * whole.bytes, times * whole.seconds, traffic), found


def memory(compiled: jax.stages.Compiled) -> dict[str, float]:
  """Bytes of one device's HBM: what goes in and comes out, what is needed between, and the program."""
  analysis = compiled.memory_analysis()
  return {
      "arguments": analysis.argument_size_in_bytes,
      "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
      "temporaries": analysis.temp_size_in_bytes,
      "program": analysis.generated_code_size_in_bytes,
  }
