"""What a decoding graph takes and gives, and the flat names that these have in files."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpt4x.models.config import TransformerConfig


class Inputs(NamedTuple):
  """What a call takes; a fresh cache is all zeros."""

  tokens: Any  # [B, L] int32
  segment_ids: Any  # [B, L] int32, the document of each token, 0 for padding, which may stand at the front alone.
  index: Any  # [] int32, how many tokens came before.
  cache_segment_ids: Any  # [B, W] int32, by slot, 0 where there is nothing.
  keys: Sequence[Any]  # Of each layer [B, G, 1, K, W]; rotary: rotated by their slot.
  values: Sequence[Any]  # Of each layer [B, G, 1, W, K].


class Outputs(NamedTuple):
  logits: Any  # [B, V], of the token after the last.
  keys: list[Any]  # Of each layer [B, G, 1, K, L].
  values: list[Any]  # Of each layer [B, G, 1, L, K].


def input_shapes(config: TransformerConfig, window: int, batch: Any = "B",
                 length: Any = "L") -> dict[str, tuple[str, tuple]]:
  """The dtype and shape of each input by its flat name; names stand for sizes that a format leaves open."""
  g, k, w = config.num_kv_heads, config.head_dim, window
  found: dict[str, tuple[str, tuple]] = {
      "tokens": ("int32", (batch, length)), "segment_ids": ("int32", (batch, length)), "index": ("int32", ()),
      "cache_segment_ids": ("int32", (batch, w))}
  for i in range(config.num_layers):
    found[f"keys_{i}"] = "float32", (batch, g, 1, k, w)
    found[f"values_{i}"] = "float32", (batch, g, 1, w, k)
  return found


def output_shapes(config: TransformerConfig, batch: Any = "B", length: Any = "L") -> dict[str, tuple[str, tuple]]:
  """The same of each output."""
  g, k = config.num_kv_heads, config.head_dim
  found: dict[str, tuple[str, tuple]] = {"logits": ("float32", (batch, config.vocab_size))}
  for i in range(config.num_layers):
    found[f"new_keys_{i}"] = "float32", (batch, g, 1, k, length)
    found[f"new_values_{i}"] = "float32", (batch, g, 1, length, k)
  return found


def named_inputs(inputs: Mapping[str, Any]) -> Inputs:
  """The inputs by their flat names."""
  layers = range((len(inputs) - 4) // 2)
  return Inputs(inputs["tokens"], inputs["segment_ids"], inputs["index"], inputs["cache_segment_ids"],
                [inputs[f"keys_{i}"] for i in layers], [inputs[f"values_{i}"] for i in layers])


def named_outputs(outputs: Outputs) -> dict[str, Any]:
  """The flat names of the outputs."""
  found = {"logits": outputs.logits}
  for i, (key, value) in enumerate(zip(outputs.keys, outputs.values)):
    found |= {f"new_keys_{i}": key, f"new_values_{i}": value}
  return found
