"""The arrays that a decoding graph needs, made of a model's parameters once, when it is written.

Kernels become matrices [I, O]. What depends on the window alone becomes a constant: R by each layer's `relative_key`,
and the position bias' product with it. Queries are scaled here, not at each step.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.compression.integers import Int8
from gpt4x.interop import layerwise
from gpt4x.models import attention
from gpt4x.models.config import TransformerConfig
from gpt4x.models.parameters import Substitute


@dataclasses.dataclass(frozen=True)
class Quantized:
  """A kernel as int8 `values` and float32 `scales`, which have size 1 on the axes that a product sums over."""

  values: Any
  scales: Any

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  def dense(self) -> np.ndarray:
    return self.values.astype(np.float32) * self.scales

  def map(self, function: Any) -> "Quantized":
    return Quantized(function(self.values), function(self.scales))

  def scaled(self, factor: float) -> "Quantized":
    return Quantized(self.values, self.scales * np.float32(factor))


Weight = np.ndarray | Quantized


def named(params: Any) -> dict[str, Weight]:
  """A model's parameters, layer by layer: integers of eight bits stay so, what else stands in for kernels does not."""
  def parts(part):
    def take(leaf):
      if isinstance(leaf, Int8):
        return getattr(leaf, part)
      return None if part == "scales" else leaf.dense(jnp.float32) if isinstance(leaf, Substitute) else leaf
    return layerwise.split(jax.tree.map(take, params, is_leaf=lambda leaf: isinstance(leaf, Substitute)))

  scales = parts("scales")
  return {name: Quantized(array, scales[name]) if name in scales else array for name, array in parts("values").items()}


def dense(weight: Weight) -> np.ndarray:
  return weight.dense() if isinstance(weight, Quantized) else np.asarray(weight, np.float32)


def flat(weights: Mapping[str, Weight]) -> dict[str, Any]:
  """Arrays alone: a quantized kernel is two, NAME.values and NAME.scales."""
  found: dict[str, Any] = {}
  for name, weight in weights.items():
    found |= ({f"{name}.values": weight.values, f"{name}.scales": weight.scales} if isinstance(weight, Quantized)
              else {name: weight})
  return found


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flat`."""
  found = {name: array for name, array in arrays.items() if not name.endswith((".values", ".scales"))}
  return found | {name: Quantized(arrays[f"{name}.values"], arrays[f"{name}.scales"]) for name in (
      name.removesuffix(".values") for name in arrays if name.endswith(".values"))}


def make(config: TransformerConfig, parameters: Mapping[str, Weight], window: int) -> dict[str, Weight]:
  """The graph's weights of parameters that are named layer by layer, as `named` gives them.

  A layer's are `layers.I.NAME`; layers that share parameters have those of the first of them.
  """
  c, found = config, {}
  for name, parameter in parameters.items():
    if name.startswith("vocabulary."):
      found[name] = parameter
  for norm in (name for name in parameters if name.startswith("final_norm.")):
    found[norm] = dense(parameters[norm])
  for i in range(c.num_layers // c.share_layers):
    own = {name.removeprefix(f"layers.{i}."): parameter for name, parameter in parameters.items()
           if name.startswith(f"layers.{i}.")}
    layer = {name: parameter for name, parameter in own.items() if not name.startswith("attention.")}
    layer |= _attention(c, own, parameters, window)
    found |= {f"layers.{i}.{name}": weight for name, weight in layer.items()}
  return found


def _attention(c: TransformerConfig, own: Mapping[str, Weight], parameters: Mapping[str, Weight],
               window: int) -> dict[str, Weight]:
  scale, (h, g, k) = c.head_dim**-0.5, (c.num_heads, c.num_kv_heads, c.head_dim)
  query = own["attention.query"]
  if not c.qk_norm:  # Which would take it back.
    query = query.scaled(scale) if isinstance(query, Quantized) else query * np.float32(scale)
  kernels = [query, own["attention.key"], own["attention.value"]]
  found: dict[str, Weight] = {"project": _join([_matrix(kernel, 1) for kernel in kernels]),
                              "out": _matrix(own["attention.out"], 2)}
  if c.qkv_bias:
    query_bias, *others = (dense(own[f"attention.{name}_bias"]).reshape(-1) for name in ("query", "key", "value"))
    found["project_bias"] = np.concatenate([query_bias * np.float32(1 if c.qk_norm else scale), *others])
  if c.qk_norm:
    found["query_norm"] = dense(own["attention.query_norm.scale"]) * np.float32(scale)
    found["key_norm"] = dense(own["attention.key_norm.scale"])
  if c.positions == "relative":
    biases = own if c.untie_biases else parameters
    prefix = "attention." if c.untie_biases else ""
    u, v = (dense(biases[f"{prefix}{name}_bias"]).reshape(g, h // g, 1, k) for name in ("content", "position"))
    positions = np.asarray(attention.relative_positions(dataclasses.replace(c, dtype="float32"),
                                                        jnp.arange(window)[::-1]))
    position_keys = np.einsum("sd,dgk->gks", positions, dense(own["attention.relative_key"]))
    found["content_bias"] = u * np.float32(scale)
    kept = np.ascontiguousarray(position_keys[:, None])  # [G, 1, K, W]
    found["position_keys"] = _rounded(kept, 2) if c.memory_dtype == "int8" else kept
    found["position_bias"] = np.float32(scale) * (v @ dense(found["position_keys"]))  # [G, H / G, 1, W]
  return found


def _rounded(array: np.ndarray, axis: int) -> Quantized:
  steps = (np.maximum(np.abs(array).max(axis, keepdims=True), 1e-30) / 127).astype(np.float32)
  return Quantized(np.rint(array / steps).astype(np.int8), steps)


def _matrix(kernel: Weight, summed: int) -> Weight:
  """A kernel whose first axes are summed over as [I, O]; its scales as [1, O]."""
  reshape = lambda x: x.reshape(int(np.prod(x.shape[:summed])), -1)
  return kernel.map(reshape) if isinstance(kernel, Quantized) else np.asarray(kernel, np.float32).reshape(
      int(np.prod(kernel.shape[:summed])), -1)


def _join(matrices: list[Weight]) -> Weight:
  """Matrices of one input side by side."""
  quantized = [matrix for matrix in matrices if isinstance(matrix, Quantized)]
  if len(quantized) == len(matrices):
    return Quantized(np.concatenate([one.values for one in quantized], 1),
                     np.concatenate([one.scales for one in quantized], 1))
  return np.concatenate([dense(matrix) for matrix in matrices], 1)
