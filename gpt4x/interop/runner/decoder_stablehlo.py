"""Reads step.stablehlo, prefill.stablehlo and weights.npz; the ring stays on the device."""

import jax
import jax.export
import numpy as np


def load(folder, config):
  """(function of the named inputs, their shapes, V); the function gives the logits and the ring moved on."""
  step, prefill = (jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
                   for name in ("step", "prefill"))
  weights = jax.device_put(dict(np.load(folder / "weights.npz")))
  calls = {config["chunk"]: jax.jit(prefill.call, donate_argnums=1), 1: jax.jit(step.call, donate_argnums=1)}

  def run(inputs):
    tokens = {name: inputs.pop(name) for name in ("tokens", "segment_ids", "index")}
    logits, cache = calls[tokens["tokens"].size](weights, inputs, tokens)
    return {"logits": np.asarray(logits), **cache}

  _, cache, tokens = jax.tree.unflatten(step.in_tree, step.in_avals)[0]
  return run, {name: one.shape for name, one in {**cache, **tokens}.items()}, step.out_avals[0].shape[-1]
