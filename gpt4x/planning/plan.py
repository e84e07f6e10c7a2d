"""`gpt4x plan`: parameters, memory, time and utilisation of an experiment on a topology, and what to change first."""

from collections.abc import Iterator
import dataclasses
import itertools
import math
from typing import Any

import jax

from gpt4x.errors import UserError
from gpt4x.models.config import TransformerConfig
from gpt4x.partitioning import Partitioner
from gpt4x.planning import collectives, estimate, needs
from gpt4x.planning.chips import GIB, Topology
from gpt4x.planning.needs import Needs, SPARE
from gpt4x.planning.steps import parts_of, TrainingStep
from gpt4x.training.state import TrainState

LARGE = 64 * 2**20  # Bytes: copies of a smaller part of an array than this are not worth a warning.


@dataclasses.dataclass(frozen=True)
class Plan(Needs):
  """A training step of an experiment."""

  params: int
  active_params: int
  flops_per_token: float  # What training asks of the model, with only the scores that causal attention needs.
  tokens_per_step: int
  remat: str
  mfu: float  # Computed from the slower of the roofline's time and the compiler's.
  tokens_per_day: float
  warnings: list[str]
  advice: str | None


def make(step: TrainingStep, partitioner: Partitioner, topology: Topology, compiled: bool,
         state: TrainState | None = None) -> Plan:
  """Plans a step on a topology: with the TPU compiler, which takes minutes, if `compiled`, otherwise by formula."""
  config, state = step.config, state or step.state(partitioner)
  formulas = needs.Formulas(estimate.temporaries(step, state, partitioner), estimate.cost(step, state, partitioner))
  found, sent = needs.of(step, parts_of(state), partitioner, topology, formulas, compiled)
  warnings = [*_coarse(state.params, partitioner), *_surprises(sent, _largest_expected(step, state, partitioner))]
  tokens, peak = step.batch_size * step.segment_length, topology.num_devices * topology.chip.peak
  flops_per_token = config.flops_per_token(step.segment_length, step.memory_length, training=True)
  plan = Plan(
      **vars(found), params=config.num_params(), active_params=config.num_active_params(),
      flops_per_token=flops_per_token, tokens_per_step=tokens, remat=config.remat,
      mfu=flops_per_token * tokens / (found.slower * peak), tokens_per_day=tokens / found.slower * 86400,
      warnings=warnings, advice=None)
  return dataclasses.replace(plan, advice=_advice(plan, step))


def _advice(plan: Plan, step: TrainingStep) -> str | None:
  """Names the first thing to change if a plan does not fit."""
  if plan.spare >= SPARE:
    return None
  largest = max(plan.memory, key=plan.memory.get)
  if largest == "temporaries":
    if plan.remat != "full":
      return "temporaries are the most of it: set TransformerConfig.remat = 'full'"
    if step.batch_size // step.microbatches > plan.devices // plan.mesh["tensor"]:
      return f"temporaries are the most of it: set train.microbatches = {2 * step.microbatches}, or lower BATCH_SIZE"
    return f"temporaries of a single row are the most of it: set Partitioner.tensor = {2 * plan.mesh['tensor']}"
  if largest in ("params", "optimizer") and plan.mesh["data"] > 1:
    return f"the state is the most of it, and {plan.mesh['data']} devices hold copies of it: raise Partitioner.fsdp"
  if largest == "optimizer":
    return "the optimizer's state is the most of it: take @adafactor() or @lion(), or a larger topology"
  return f"{largest} is the most of it: take a larger topology"


def _coarse(params: Any, partitioner: Partitioner) -> Iterator[str]:
  """Tells of large parameters of which several devices hold the same part, though the mesh could split them."""
  ways = math.prod(size for name, size in partitioner.mesh.shape.items() if name not in ("slice", "data"))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    held = estimate.device_bytes(leaf)
    copies = held * ways / (math.prod(leaf.shape) * leaf.dtype.itemsize)
    if copies > 1 and held > LARGE:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      yield f"{name} {leaf.shape}: {held / GIB:.2f} GiB on each device, of which the mesh has {copies:.0f} copies"


def _largest_expected(step: TrainingStep, state: TrainState, partitioner: Partitioner) -> float:
  """Bytes of the largest array that a step should move at once: a gathered parameter of a block, or activations."""
  tokens = estimate.Sizes.of(step, state, partitioner).tokens

  def largest(config: TransformerConfig, params: Any) -> float:
    stacked = lambda path: config.num_layers / config.period if path[0].key == "layers" else 1
    leaf = max(math.prod(leaf.shape) / stacked(path) for path, leaf in jax.tree_util.tree_leaves_with_path(params))
    return 4 * max(leaf, tokens * config.embed_dim * (config.moe.experts_per_token if config.moe else 1))

  return max(largest(step.config, state.params), *(
      largest(one.model.config, state.frozen[name]) for name, one in step.frozen_models.items()), 0.0)


def _surprises(found: list[collectives.Collective], expected: float) -> list[str]:
  return [f"a collective larger than any parameter or activation: {one.kind} over {one.axes},"
          f" {one.result_bytes / GIB:.2f} GiB" for one in found if one.result_bytes > expected]


def search(step: TrainingStep, topology: Topology) -> list[Plan]:
  """Plans every mesh and remat policy by formula: those that fit come first, the fastest at the top."""
  found = []
  for mesh in _meshes(topology, step):
    try:
      partitioner = Partitioner(**mesh)
      partitioner.check_batch(step.batch_size, step.microbatches)
      state = step.state(partitioner)
      for remat in ("none", "dots_no_batch", "full"):
        found.append(make(step.replace_config(remat=remat), partitioner, topology, compiled=False, state=state))
    except UserError:
      continue  # A size does not divide.
  if not found:
    raise UserError(f"no mesh of {topology} divides BATCH_SIZE = {step.batch_size} and the model: change either")
  return sorted(found, key=lambda plan: (plan.spare < SPARE, -round(plan.mfu, 3), sum(plan.seconds.values())))


def _meshes(topology: Topology, step: TrainingStep) -> Iterator[dict[str, Any]]:
  chips, moe = math.prod(topology.shape), step.config.moe
  powers = [2**i for i in range(int(math.log2(chips)) + 1)]
  for tensor, expert, fsdp in itertools.product(powers[:5], powers if moe else [1], powers):
    if (not moe or moe.num_experts % expert == 0) and chips % (tensor * expert * fsdp) == 0:
      yield {"slice": topology.num_slices, "data": chips // (tensor * expert * fsdp), "fsdp": fsdp, "expert": expert,
             "tensor": tensor}


def describe(plan: Plan) -> str:
  """The plan as text."""
  gib = lambda size: f"{size / GIB:.2f}"
  fits = f"{plan.spare:.0%} spare" if plan.spare >= SPARE else f"{plan.spare:.0%} spare: DOES NOT FIT with {SPARE:.0%}"
  active = f", {plan.active_params:,} of them for a token" if plan.active_params < plan.params else ""
  lines = [
      ("on", f"{plan.place}, remat {plan.remat!r}"),
      ("parameters", f"{plan.params:,}{active}"),
      ("a step", f"{plan.tokens_per_step:,} tokens of {plan.flops_per_token / 1e9:.4g} GFLOP each (causal once)"),
      ("GiB a device", ", ".join(f"{name} {gib(size)}" for name, size in plan.memory.items())),
      ("", f"together {gib(sum(plan.memory.values()))} of {gib(plan.hbm)}: {fits}"),
      ("a device's step", f"{plan.flops / 1e12:.4g} TFLOP, {plan.bytes / 1e9:.4g} GB of memory traffic"),
      ("sent", ", ".join(f"{axes} {size / 1e9:.4g} GB" for axes, size in plan.traffic.items()) or "nothing"),
      ("seconds", ", ".join(f"{name} {value:.3g}" for name, value in plan.seconds.items())),
      ("a step takes", f"{plan.roofline:.3g} s by the roofline" + (
          f", {plan.compiled:.3g} s by the compiler" if plan.compiled is not None else
          " (all by formula: install the extra tpu for the compiler's word)")),
      ("so", f"MFU {plan.mfu:.1%}, {plan.tokens_per_day / 1e9:.4g} billion tokens a day"),
      *(("warning", warning) for warning in plan.warnings),
  ]
  if plan.advice:
    lines.append(("change first", plan.advice))
  return "\n".join(f"{name:<16}{text}" for name, text in lines)


def ranking(plans: list[Plan], topology: Topology) -> str:
  lines = [f"{topology}, by formula; `gpt4x plan` without --search asks the compiler about one of them",
           f"{'MFU':>6} {'spare':>6} {'step':>8}  mesh, remat"]
  for plan in plans[:12]:
    mesh = " ".join(f"--gin.Partitioner.{name}={size}" for name, size in plan.mesh.items() if size > 1)
    lines.append(f"{plan.mfu:6.1%} {plan.spare:6.0%} {plan.roofline:7.3g}s  {mesh}"
                 f" --gin.TransformerConfig.remat=\"'{plan.remat}'\"")
  return "\n".join(lines)
