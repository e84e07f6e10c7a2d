"""Bundles of tiny models, and the code that is shipped in them, loaded into this process."""

import functools
import importlib.util
import json
import pathlib
import tempfile
import types
from unittest import mock

import jax.numpy as jnp
import numpy as np
import seqio

from gpt4x.interop import bundles
from gpt4x.models.config import MoEConfig
from tests.models import tiny

WINDOW, CHUNK = 5, 3  # So that chunks meet the end of the ring at each of their tokens.
LENGTH = 3 * WINDOW + 3
STYLES = {name: {"memory_length": WINDOW, **style} for name, style in tiny.STYLES.items()} | {
    "unscanned": dict(scan_layers=False, norm_position="pre", activation="gelu", tie_embeddings=False),
    "shared": dict(share_layers=2, num_layers=4, activation="swiglu", untie_biases=True),
    "bottleneck": dict(vocab_embed_dim=6, tie_projections=True, positions="rotary", norm="rms", num_kv_heads=1),
    "sigmoid_router": dict(moe=MoEConfig(num_experts=3, experts_per_token=1, scores="sigmoid", bias_rate=0.1,
                                         normalize_weights=False), positions="rotary", clamp_length=2)}

_FOLDER = tempfile.TemporaryDirectory()  # Removed when the process ends.


def tokens(config, length=LENGTH):
  return np.random.default_rng(0).integers(0, config.vocab_size, length, dtype=np.int32).tolist()


@functools.cache
def expected(style: str) -> np.ndarray:
  """The logits after each token, [LENGTH, V], by one pass over all of them."""
  model = tiny.make(**STYLES[style])
  memory = model.lm.initial_memory(1, WINDOW)
  run = tiny.jit(functools.partial(model.lm.logits, window=WINDOW))
  return np.asarray(run(model.params, jnp.asarray([tokens(model.config)]), memory)[0][0])


@functools.cache
def bundle(kind: str, style: str) -> pathlib.Path:
  model = tiny.make(**STYLES[style])
  return write(kind, model, pathlib.Path(_FOLDER.name, kind, style))


def write(kind, model, folder, vocabulary=None, window=WINDOW):
  with mock.patch.object(bundles, "CHUNK", CHUNK):
    bundles.save(folder, kind, bundles.Decoder.of(model.lm, model.params, window),
                 vocabulary or seqio.ByteVocabulary())
  return folder


def runner(folder: pathlib.Path) -> types.ModuleType:
  """The run.py of a bundle as a module."""
  return _load("run", folder / "run.py")


def model(folder: pathlib.Path):
  """The decoder of a bundle, as run.py has it."""
  config = json.loads((folder / "config.json").read_text())
  return runner(folder).Model(config, _load("decoder", folder / "decoder.py").load)


def _load(name, path):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
