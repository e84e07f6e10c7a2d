"""What a training step needs on each device, by formula: without the compiler, and as a check on it.

State is counted exactly, from shapes and shardings. The rest is a sum of the large parts, to some 30%: what a device
computes, what it reads and writes, what it sends, and what it must hold between the forward and the backward pass.
"""

import dataclasses
import math
from typing import Any

import jax

from gpt4x.models.config import TransformerConfig
from gpt4x.partitioning import Partitioner
from gpt4x.planning.chips import Topology
from gpt4x.planning.compiler import Cost, Step
from gpt4x.training.state import TrainState


def device_bytes(tree: Any) -> float:
  """Bytes on one device of a tree of ShapeDtypeStructs with shardings."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What the formulas are made of, on one device: its rows of a microbatch, and its share of heads, MLP and so on."""

  config: TransformerConfig
  tokens: float  # b L, of a microbatch.
  length: int  # L
  total: int  # T
  tensor: int
  gathered: float  # Parameters that the device computes with, its own experts and its part of heads and MLPs.
  owned: float  # Parameters that it holds.

  @classmethod
  def of(cls, step: Step, state: TrainState, partitioner: Partitioner) -> "Sizes":
    shape, config = partitioner.mesh.shape, step.config
    rows = step.batch_size / partitioner.num_batch_shards / step.microbatches
    gathered = 0.0
    for leaf in jax.tree.leaves(state.params):
      # Experts stay where they are, as do parts of heads and MLPs; what else is split is gathered.
      stays = [axes for axes in leaf.sharding.spec if axes in ("expert", "tensor")]
      gathered += math.prod(leaf.shape) / math.prod(shape[name] for name in stays)
    return cls(config, rows * step.segment_length, step.segment_length, step.segment_length + step.memory_length,
               shape["tensor"], gathered, device_bytes(state.params) / 4)

  @property
  def scored_heads(self) -> float:
    """Heads of a device whose scores pass through memory: those of the fused kernel do not."""
    return 0.0 if self.config.attention_kernel == "flash" else self.config.num_heads / self.tensor

  @property
  def scores(self) -> float:
    """Elements of the attention scores of a layer that pass through memory."""
    chunk = min(self.config.attention_chunk or self.length, self.length)
    return self.tokens * (self.total - (self.length - chunk) / 2) * self.scored_heads

  @property
  def scores_at_once(self) -> float:
    """Those of one chunk."""
    chunk = min(self.config.attention_chunk or self.length, self.length)
    return self.tokens * self.total * self.scored_heads * chunk / self.length

  @property
  def hidden(self) -> float:
    """Elements of the inner activations of a layer's MLP, or of the experts that its tokens meet."""
    c = self.config
    wide = c.mlp_dim
    if c.moe and c.period == 1:
      wide = c.expert_dim * (c.moe.experts_per_token + c.moe.num_shared_experts)
    return self.tokens * wide / self.tensor * (2 if c.activation == "swiglu" else 1)


def temporaries(step: Step, state: TrainState, partitioner: Partitioner) -> float:
  """Bytes between the passes: gradients, what the backward pass is kept, one layer's work, logits."""
  s = Sizes.of(step, state, partitioner)
  c = s.config
  block = s.gathered / c.num_layers * c.period
  kept = {"full": s.tokens * c.embed_dim * 2, "dots_no_batch": 2 * (8 * s.tokens * c.embed_dim + s.hidden)}.get(
      c.remat, 2 * (12 * s.tokens * c.embed_dim + 3 * s.hidden + 2 * s.scores_at_once))
  work = 10 * s.scores_at_once + 2 * (12 * s.tokens * c.embed_dim + 3 * s.hidden)
  logits = 10 * s.tokens * c.vocab_size / s.tensor
  return 4 * s.owned + 2 * 2 * block + c.num_layers * kept + max(work, logits)


def cost(step: Step, state: TrainState, partitioner: Partitioner) -> Cost:
  """Arithmetic, memory traffic and communication of a step."""
  s, shape, c = Sizes.of(step, state, partitioner), partitioner.mesh.shape, step.config
  tokens = step.batch_size * step.segment_length / partitioner.mesh.size
  flops = lambda training: c.flops_per_token(step.segment_length, step.memory_length, training=training, causal=False)
  again = {"full": 1.0, "none": 0.0}.get(c.remat, 0.3)
  arithmetic = tokens * (flops(True) + again * flops(False))

  passes = (3 + (again > 0)) * step.microbatches  # Over the weights: forward, again, twice backward.
  weights = passes * 2 * s.gathered + 2 * (4 * s.owned + device_bytes(state.opt_state)) + 12 * s.owned
  activations = c.num_layers * (2 * 30 * s.tokens * c.embed_dim + 2 * 8 * s.hidden + 4 * 16 * s.scores)
  logits = 4 * 6 * s.tokens * c.vocab_size / s.tensor
  traffic = {}

  def add(axes, amount):
    size = math.prod(shape[name] for name in axes)
    if size > 1 and amount:
      name = " x ".join(name for name in shape if name in axes and shape[name] > 1)
      traffic[name] = traffic.get(name, 0.0) + amount * (size - 1) / size

  # Weights are gathered for each pass over them, and their gradients scattered, in the compute dtype.
  add(("fsdp",), (2 + (again > 0) + 1) * step.microbatches * 2 * s.gathered)
  add([name for name in ("slice", "data") if name in shape], 2 * 4 * s.owned)
  add(("tensor",), (4 + 2 * (again > 0)) * step.microbatches * c.num_layers * 2 * 2 * s.tokens * c.embed_dim)
  if c.moe:
    sent = 2 * s.tokens * c.embed_dim * c.moe.experts_per_token * (c.moe.capacity_factor or 1.0)
    add(("expert",), (4 + 2 * (again > 0)) * step.microbatches * c.num_mixtures * sent)
  return Cost(arithmetic, weights + step.microbatches * (activations + logits), math.nan, traffic)


def seconds(cost: Cost, topology: Topology, partitioner: Partitioner) -> dict[str, float]:
  """The roofline: what arithmetic, memory and each network would take alone, at their peaks."""
  chip = topology.chip
  found = {"arithmetic": cost.flops / chip.peak, "memory": cost.bytes / chip.hbm_bandwidth}
  for axes, traffic in cost.traffic.items():
    size = math.prod(partitioner.mesh.shape[name] for name in axes.split(" x "))
    if "slice" in axes:
      bandwidth = chip.network_bandwidth
    else:
      # A mesh axis lies along as many axes of the torus as it needs, a ring of two links on each.
      bandwidth = 2 * chip.link_bandwidth * min(
          chip.torus_dims, max(1, math.ceil(math.log(size) / math.log(max(topology.shape)) - 1e-9)))
    found[f"network {axes}"] = traffic / bandwidth
  return found
