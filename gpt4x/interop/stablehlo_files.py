"""A decoder as two StableHLO functions of `jax.export`, a step and a prefill, and their weights beside them.

call(weights, cache, {tokens, segment_ids, index}) -> (logits, cache): the ring is moved on within, and is meant to be
donated. Weights are arguments, since a serialized function holds less than 2 GiB.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from gpt4x.interop import decoding_graph, decoding_inputs, decoding_jax, decoding_weights
from gpt4x.interop.decoding_weights import Weight
from gpt4x.models.config import TransformerConfig

NAMES = "step.stablehlo", "prefill.stablehlo", "weights.npz"
PLATFORMS = "cpu", "tpu", "cuda"
_TOKENS = "tokens", "segment_ids", "index"


def save(folder: pathlib.Path, config: TransformerConfig, weights: Mapping[str, Weight], window: int,
         chunk: int) -> list[str]:
  """Writes both functions and the weights; returns the names of the files."""
  arrays = decoding_weights.flat(weights)
  shape = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype)

  def call(weights, cache, tokens):
    with jax.default_matmul_precision("float32"):  # On accelerators too, which would round to fewer digits.
      outputs = decoding_graph.run(decoding_jax, config, window, decoding_weights.nested(weights),
                                   decoding_inputs.named_inputs({**cache, **tokens}))
    return outputs.logits, _moved_on(cache, tokens, decoding_inputs.named_outputs(outputs), window)

  for name, length in zip(NAMES, (1, chunk)):
    inputs = {name: jax.ShapeDtypeStruct(size, dtype)
              for name, (dtype, size) in decoding_inputs.input_shapes(config, window, 1, length).items()}
    tokens = {name: inputs.pop(name) for name in _TOKENS}
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(
        {name: shape(array) for name, array in arrays.items()}, inputs, tokens)
    (folder / name).write_bytes(exported.serialize())
  np.savez(folder / NAMES[2], **arrays)
  return list(NAMES)


def _moved_on(cache: Mapping[str, Any], tokens: Mapping[str, Any], new: Mapping[str, Any],
              window: int) -> dict[str, Any]:
  """The cache with what the new tokens add to it."""
  slots = (tokens["index"] + jnp.arange(tokens["tokens"].shape[1])) % window
  found = {}
  for name, ring in cache.items():
    if name == "cache_segment_ids":
      found[name] = ring.at[:, slots].set(tokens["segment_ids"])
    elif name.startswith("keys"):
      found[name] = ring.at[..., slots].set(new[f"new_{name}"])
    else:
      found[name] = ring.at[..., slots, :].set(new[f"new_{name}"])
  return found
