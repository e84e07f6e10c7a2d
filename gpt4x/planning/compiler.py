"""Compiles a training step for TPUs that are not here: libtpu has the compiler and knows every topology."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import os
from typing import Any

import jax

from gpt4x.checkpoints import frozen_models
from gpt4x.data.stream import FEATURES
from gpt4x.errors import UserError
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.partitioning import Partitioner
from gpt4x.planning import collectives
from gpt4x.planning.chips import Topology
from gpt4x.training import gradients
from gpt4x.training.config import TrainConfig
from gpt4x.training.initial_state import state_shapes
from gpt4x.training.step import TrainStep

# Products that overlap with their own communication become loops, and the compiler counts only one turn of a loop.
_NO_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step on B rows of L tokens with a memory of M positions: what is compiled."""

  train_step: TrainStep
  batch_size: int
  segment_length: int
  memory_length: int
  microbatches: int = 1

  @classmethod
  def of(cls, config: TrainConfig) -> "Step":
    """The step of a run, checked to fit its mesh; a dtype of 'auto' becomes bfloat16, as on a TPU."""
    experiment = config.experiment
    config.partitioner.check_batch(experiment.dataset.batch_size, config.microbatches)
    step = cls(config.step, experiment.dataset.batch_size, experiment.dataset.segment_length,
               experiment.memory_length, config.microbatches)
    step = step.replace_frozen(lambda config: {"dtype": "bfloat16"} if config.dtype == "auto" else {})
    return step.replace_config(dtype="bfloat16") if experiment.language_model.config.dtype == "auto" else step

  @property
  def config(self) -> TransformerConfig:
    return self.train_step.model.config

  def state(self, partitioner: Partitioner) -> Any:
    return state_shapes(self.train_step, self.batch_size, self.memory_length, partitioner,
                        frozen_models.shapes(self.frozen_models, partitioner))

  @property
  def frozen_models(self) -> Mapping[str, SavedModel]:
    return getattr(self.train_step.objective, "frozen_models", {})

  def replace_config(self, **changes: Any) -> "Step":
    model = LanguageModel(dataclasses.replace(self.config, **changes))
    return dataclasses.replace(self, train_step=dataclasses.replace(self.train_step, model=model))

  def replace_frozen(self, changes: Callable[[TransformerConfig], dict[str, Any]]) -> "Step":
    """The step with what `changes` says of the configuration of each frozen model."""
    if not self.frozen_models:
      return self
    objective: Any = self.train_step.objective
    models = {name: dataclasses.replace(one, model=LanguageModel(dataclasses.replace(
        one.model.config, **changes(one.model.config)))) for name, one in self.frozen_models.items()}
    return dataclasses.replace(self, train_step=dataclasses.replace(
        self.train_step, objective=objective.with_frozen_models(models)))


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


def compile_step(step: Step, partitioner: Partitioner, options: dict[str, Any] | None = None) -> jax.stages.Compiled:
  """Compiles the step that `gpt4x train` would run on the partitioner's mesh."""
  shapes = step.state(partitioner)
  more = getattr(step.train_step.objective, "token_features", None)
  features = {name: ((), dtype) for name, dtype in FEATURES.items()} | (more.features if more else {})
  batch = {name: jax.ShapeDtypeStruct((step.batch_size, step.segment_length, *shape), dtype,
                                      sharding=partitioner.sharding("batch", *(None,) * (1 + len(shape))))
           for name, (shape, dtype) in features.items()}
  with partitioner.activate():
    lowered = step.train_step.jit(shapes).lower(shapes, batch)
  return lowered.compile(options)


def step_cost(step: Step, partitioner: Partitioner) -> tuple[Cost, list[collectives.Collective]]:
  """The cost of a whole step, and the collectives of two of its repeating blocks.

  The compiler counts the body of a loop once. So one block and two blocks are compiled, unrolled, and the rest is
  extrapolated; frozen models are unrolled whole. One microbatch is compiled and multiplied, which counts the optimizer
  too often.
  """
  period, times = step.config.period, step.microbatches
  step = dataclasses.replace(step, train_step=dataclasses.replace(step.train_step, gradients=gradients.whole),
                             batch_size=step.batch_size // times, microbatches=1)
  step = step.replace_frozen(lambda _: {"scan_layers": False})

  def of(blocks: int) -> tuple[Cost, list[collectives.Collective]]:
    compiled = compile_step(step.replace_config(num_layers=blocks * period, scan_layers=False), partitioner, _NO_LOOPS)
    analysis, text = compiled.cost_analysis(), compiled.as_text()
    found = collectives.parse(text, partitioner.mesh.shape)
    unknown = text.count('custom_call_target="PrepareAsyncCall')  # The compiler gives each of these -1 second.
    return Cost(analysis["flops"], analysis["bytes accessed"], analysis["optimal_seconds"] + unknown,
                collectives.by_axes(found)), found

  (one, _), (two, found) = of(1), of(2)
  whole = one.extrapolate(two, step.config.num_layers / period)
  traffic = {axes: times * sent for axes, sent in whole.traffic.items()}
  return Cost(times * whole.flops, times * whole.bytes, times * whole.seconds, traffic), found


def memory(compiled: jax.stages.Compiled) -> dict[str, float]:
  """Bytes of one device's HBM: inputs, outputs beyond them, what is needed between, and the program."""
  analysis = compiled.memory_analysis()
  return {"arguments": analysis.argument_size_in_bytes, "temporaries": analysis.temp_size_in_bytes,
          "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
          "program": analysis.generated_code_size_in_bytes}
