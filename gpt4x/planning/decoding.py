"""`gpt4x plan --decode`: what a decoding step needs, for weights of each form.

Parameters and cache are counted exactly, from shapes and shardings. Without the compiler the rest sums the large parts:
what a step reads, computes and sends.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax

from gpt4x.compression.integers import Int4, Int8
from gpt4x.compression.quantization import quantized_model
from gpt4x.models.parameters import Declaration, Substitute
from gpt4x.partitioning import Partitioner
from gpt4x.planning import needs
from gpt4x.planning.chips import GIB, Topology
from gpt4x.planning.compiler import Cost
from gpt4x.planning.estimate import device_bytes, ring_traffic
from gpt4x.planning.needs import Needs, SPARE
from gpt4x.planning.steps import DecodingStep

FORMS = ("float", "int8", "int8-all", "int4")  # Of weights: in the compute dtype, or as `gpt4x compress` makes them.
_OF_CONSTANTS = {"query", "key", "value", "relative_key"}  # Kernels that a step has from its cache.


@dataclasses.dataclass(frozen=True)
class DecodingPlan(Needs):
  """A step of decoding."""

  form: str
  batch_size: int
  window: int
  fits: bool
  reads: float  # Bytes of weights and cache that a step cannot do without.
  limit: str  # The part of the roofline that takes longest.
  tokens_per_second: float  # Of all rows; by the slower of the roofline's time and the compiler's.


def plans(step: DecodingStep, partitioner: Partitioner, topology: Topology, compiled: bool) -> list[DecodingPlan]:
  return [make(dataclasses.replace(step, model=step.model if form == "float" else quantized_model(step.model, form)),
               form, partitioner, topology, compiled) for form in FORMS]


def make(step: DecodingStep, form: str, partitioner: Partitioner, topology: Topology, compiled: bool) -> DecodingPlan:
  """Plans a step on a topology: by the TPU compiler if `compiled`, otherwise by formula."""
  parts = step.parts(partitioner)
  formulas = needs.Formulas(temporaries(step, parts, partitioner), cost(step, parts, partitioner))
  found, _ = needs.of(step, parts, partitioner, topology, formulas, compiled)
  return DecodingPlan(
      **vars(found), form=form, batch_size=step.batch_size, window=step.window, fits=found.spare >= SPARE,
      reads=device_bytes([weights for weights, _ in _used(step, parts, partitioner)]) + device_bytes(parts["cache"]),
      limit=max(found.seconds, key=found.seconds.__getitem__), tokens_per_second=step.batch_size / found.slower)


def _used(step: DecodingStep, parts: dict[str, Any], partitioner: Partitioner) -> Iterator[tuple[Any, Declaration]]:
  """The parameters that a step reads whole, and their declarations."""
  is_one = lambda x: isinstance(x, Declaration)
  declared = jax.tree_util.tree_leaves_with_path(step.model.declared[1], is_leaf=is_one)
  params = jax.tree.leaves(parts["params"], is_leaf=lambda x: isinstance(x, Substitute))
  for (path, declaration), param in zip(declared, params, strict=True):
    name = path[-1].key
    if name not in _OF_CONSTANTS and (step.config.tie_embeddings or not name.startswith("table")):
      yield param, declaration


def temporaries(step: DecodingStep, parts: dict[str, Any], partitioner: Partitioner) -> float:
  """Bytes of the logits, of the largest array that integers are turned into, and of a copy of scanned rings."""
  rows = _rows(step, partitioner)
  dense = max((_dense_bytes(param, declaration) for param, declaration in _used(step, parts, partitioner)), default=0.0)
  rings = 0 if isinstance(parts["cache"].rings, list) else device_bytes(parts["cache"].rings)
  return 2 * 4 * rows * step.config.vocab_size / partitioner.mesh.shape["tensor"] + dense + rings


def _rows(step: DecodingStep, partitioner: Partitioner) -> float:
  shards = partitioner.num_batch_shards
  return step.batch_size / (1 if step.batch_size % shards else shards)


def _dense_bytes(param: Any, declaration: Declaration) -> float:
  """Bytes on a device of the array, of one layer, that a product makes of a kernel; 0 if it makes none."""
  if not (isinstance(param, Int4) or isinstance(param, Int8) and "expert" in declaration.names):
    return 0.0
  layers = param.values.shape[0] if declaration.names[0] == "layers" else 1
  return 2 * device_bytes(param.values) * (2 if isinstance(param, Int4) else 1) / layers


def cost(step: DecodingStep, parts: dict[str, Any], partitioner: Partitioner) -> Cost:
  """Arithmetic, memory traffic and communication of a step on one device."""
  c, shape, rows = step.config, partitioner.mesh.shape, _rows(step, partitioner)
  read, gathered = device_bytes(parts["cache"]), 0.0
  if c.positions == "rotary":  # Keys ahead of the query and those behind it are met apart.
    rings = parts["cache"].rings
    read += device_bytes([ring.keys for ring in (rings if isinstance(rings, list) else [rings])])
  for param, declaration in _used(step, parts, partitioner):
    # Of few tokens' experts only those are read. What is turned into an array is written and read, as bytes and then
    # as numbers.
    few = 1.0
    if "expert" in declaration.names and not isinstance(param, Substitute):
      few = min(1.0, step.batch_size * c.moe.experts_per_token / c.moe.num_experts)
    layers = c.num_layers / c.period if declaration.names[0] == "layers" else 1
    read += few * device_bytes(param) + layers * 3 * _dense_bytes(param, declaration)
    for leaf in jax.tree.leaves(param):  # Weights that are split otherwise are gathered, as a product takes them.
      whole = math.prod(leaf.shape) * leaf.dtype.itemsize * (4 if isinstance(param, Int4) else 1)
      gathered += whole / math.prod(shape[axes] for axes in leaf.sharding.spec if axes in ("expert", "tensor"))
  read += 2 * gathered * (shape["fsdp"] > 1)
  traffic = ring_traffic(("fsdp",), gathered, shape)
  activations = 2 * rows * c.embed_dim  # Each a sum over tensor, two for a layer, and to the experts and back.
  traffic |= ring_traffic(("tensor",), 2 * 2 * c.num_layers * activations, shape)
  if c.moe:
    traffic |= ring_traffic(("expert",), 2 * c.num_mixtures * activations * shape["expert"], shape)
  flops = rows * (step.product_flops + step.attention_flops) / shape["tensor"]
  return Cost(flops, read, math.nan, traffic)


def describe(found: list[DecodingPlan]) -> str:
  """A table, a row a form."""
  first, gib = found[0], lambda size: size / GIB
  by = "by the compiler" if first.source == "compiler" else "by formula: install the extra tpu for the compiler's word"
  rows: list[tuple[str, ...]] = [("GiB a device", "params", "cache", "others", "in all", "GB read", "moved", "ms",
                                  "tokens/s", "limit")]
  for one in found:
    params, cache, whole = one.memory["params"], one.memory["cache"], sum(one.memory.values())
    figures = (*map(gib, (params, cache, whole - params - cache, whole)), one.reads / 1e9, one.bytes / 1e9,
               one.slower * 1e3)
    fits = "" if one.fits else ": DOES NOT FIT"
    rows.append((one.form, *(f"{figure:.3g}" for figure in figures), f"{one.tokens_per_second:,.0f}", one.limit + fits))
  lines = [f"{first.place}; {first.batch_size:,} rows, window {first.window:,}; {gib(first.hbm):.2f} GiB a device", by]
  return "\n".join(lines + [f"{form:<13}" + "".join(f"{figure:>9}" for figure in figures) + f"  {limit}"
                            for form, *figures, limit in rows])
