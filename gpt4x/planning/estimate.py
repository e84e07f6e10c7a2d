"""What a training step needs on each device, by formula: without the compiler, and as a check on it.

State is counted exactly, from shapes and shardings. The rest sums the large parts, to some 30%: what a device computes,
reads and writes, sends, and holds between the forward and the backward pass.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax

from gpt4x.models.config import TransformerConfig
from gpt4x.partitioning import Partitioner
from gpt4x.planning.chips import Topology
from gpt4x.planning.compiler import Cost
from gpt4x.planning.steps import TrainingStep
from gpt4x.training.state import TrainState


def device_bytes(tree: Any) -> float:
  """Bytes on one device of a tree of ShapeDtypeStructs with shardings."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes on one device: of its rows of a microbatch, and of its share of heads, MLP and so on."""

  config: TransformerConfig
  tokens: float  # b L, in a microbatch.
  length: int  # L
  total: int  # T
  chunk: int  # Queries whose scores exist at a time.
  scored_heads: float  # Heads whose scores pass through memory; those of the fused kernel stay on the chip.
  tensor: int  # Devices that split heads, MLPs and vocabulary.
  gathered: float  # Parameters that the device computes with: its own experts, its part of heads and MLPs.
  owned: float  # Parameters that the device stores.

  @classmethod
  def of(cls, step: TrainingStep, state: TrainState, partitioner: Partitioner) -> "Sizes":
    shape, config = partitioner.mesh.shape, step.config
    rows = step.batch_size / partitioner.num_batch_shards / step.microbatches
    gathered = 0.0
    for leaf in jax.tree.leaves(state.params):
      # Experts and parts of heads and MLPs stay where they are; every other split is gathered.
      gathered += math.prod(leaf.shape) / math.prod(
          shape[axes] for axes in leaf.sharding.spec if axes in ("expert", "tensor"))
    length, scored = step.segment_length, config.attention_kernel != "flash"
    return cls(
        config, tokens=rows * length, length=length, total=length + step.memory_length,
        chunk=min(config.attention_chunk or length, length), scored_heads=scored * config.num_heads / shape["tensor"],
        tensor=shape["tensor"], gathered=gathered, owned=device_bytes(state.params) / 4)

  @property
  def scores(self) -> float:
    """Elements of a layer's attention scores that pass through memory."""
    return self.tokens * (self.total - (self.length - self.chunk) / 2) * self.scored_heads

  @property
  def scores_at_once(self) -> float:
    """Elements of the scores of one chunk."""
    return self.tokens * self.total * self.scored_heads * self.chunk / self.length

  @property
  def hidden(self) -> float:
    """Elements inside a layer's MLP, or inside the experts that its tokens meet."""
    c = self.config
    wide = c.mlp_dim
    if c.moe and c.period == 1:
      wide = c.expert_dim * (c.moe.experts_per_token + c.moe.num_shared_experts)
    return self.tokens * wide / self.tensor * (2 if c.activation == "swiglu" else 1)


def temporaries(step: TrainingStep, state: TrainState, partitioner: Partitioner) -> float:
  """Bytes of gradients, of what is kept for the backward pass, and of one layer's work or the logits."""
  s = Sizes.of(step, state, partitioner)
  c = s.config
  block = s.gathered / c.num_layers * c.period
  kept = {"full": s.tokens * c.embed_dim * 2, "dots_no_batch": 2 * (8 * s.tokens * c.embed_dim + s.hidden)}.get(
      c.remat, 2 * (12 * s.tokens * c.embed_dim + 3 * s.hidden + 2 * s.scores_at_once))
  work = 10 * s.scores_at_once + 2 * (12 * s.tokens * c.embed_dim + 3 * s.hidden)
  logits = 10 * s.tokens * c.vocab_size / s.tensor
  return 4 * s.owned + 2 * 2 * block + c.num_layers * kept + max(work, logits)


def cost(step: TrainingStep, state: TrainState, partitioner: Partitioner) -> Cost:
  """Arithmetic, memory traffic and communication of a step on one device."""
  s, shape, c = Sizes.of(step, state, partitioner), partitioner.mesh.shape, step.config
  tokens = step.batch_size * step.segment_length / partitioner.mesh.size
  flops = lambda training: c.flops_per_token(step.segment_length, step.memory_length, training=training, causal=False)
  again = {"full": 1.0, "none": 0.0}.get(c.remat, 0.3)
  arithmetic = tokens * (flops(True) + again * flops(False))
  arithmetic += sum(tokens * one.model.config.flops_per_token(step.segment_length, causal=False)
                    for name, one in step.frozen_models.items() if name not in step.model.frozen_models)

  passes = (3 + (again > 0)) * step.microbatches  # Forward, again, and twice backward, all over the weights.
  weights = passes * 2 * s.gathered + step.microbatches * device_bytes(state.frozen)
  weights += 2 * (4 * s.owned + device_bytes(state.opt_state)) + 12 * s.owned
  activations = c.num_layers * (2 * 30 * s.tokens * c.embed_dim + 2 * 8 * s.hidden + 4 * 16 * s.scores)
  logits = 4 * 6 * s.tokens * c.vocab_size / s.tensor
  # Weights are gathered for each pass over them, and their gradients scattered, in the compute dtype.
  traffic = ring_traffic(("fsdp",), (2 + (again > 0) + 1) * step.microbatches * 2 * s.gathered, shape)
  traffic |= ring_traffic(("slice", "data"), 2 * 4 * s.owned, shape)
  traffic |= ring_traffic(
      ("tensor",), (4 + 2 * (again > 0)) * step.microbatches * c.num_layers * 2 * 2 * s.tokens * c.embed_dim, shape)
  if c.moe:
    sent = 2 * s.tokens * c.embed_dim * c.moe.experts_per_token * (c.moe.capacity_factor or 1.0)
    traffic |= ring_traffic(("expert",), (4 + 2 * (again > 0)) * step.microbatches * c.num_mixtures * sent, shape)
  return Cost(arithmetic, weights + step.microbatches * (activations + logits), math.nan, traffic)


def ring_traffic(axes: Sequence[str], amount: float, shape: Mapping[str, int]) -> dict[str, float]:
  """Bytes that a device sends, of an amount that goes around a ring over mesh axes, by their names; none for one."""
  size = math.prod(shape[name] for name in axes)
  name = " x ".join(name for name in axes if shape[name] > 1)
  return {name: amount * (size - 1) / size} if size > 1 and amount else {}


def seconds(cost: Cost, topology: Topology, partitioner: Partitioner, int8_share: float = 0.0) -> dict[str, float]:
  """The roofline: seconds that arithmetic, memory and each network would take alone, at their peaks."""
  chip = topology.chip
  found = {"arithmetic": cost.flops * ((1 - int8_share) / chip.peak + int8_share / chip.int8_peak),
           "memory": cost.bytes / chip.hbm_bandwidth}
  for axes, traffic in cost.traffic.items():
    size = math.prod(partitioner.mesh.shape[name] for name in axes.split(" x "))
    # A mesh axis takes as many axes of the torus as it needs, with a ring of two links on each.
    rings = min(chip.torus_dims, max(1, math.ceil(math.log(size) / math.log(max(topology.shape)) - 1e-9)))
    bandwidth = chip.network_bandwidth if "slice" in axes else 2 * chip.link_bandwidth * rings
    found[f"network {axes}"] = traffic / bandwidth
  return found
