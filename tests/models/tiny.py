"""Models that compile in about a second, with no parameter left at zero or one, each made once per process."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel

ROWS, LENGTH = 3, 5

# No two sizes alike, so that a swapped axis cannot go unseen, and constants at which mistakes show.
_SIZES = dict(vocab_size=11, num_layers=2, embed_dim=8, num_heads=4, head_dim=6, mlp_dim=14, norm_epsilon=0.01,
              rotary_base=100.0, dtype="float32")

# Named models that between them use every option.
STYLES = {
    "paper": {},
    "modern": dict(positions="rotary", norm="rms", norm_position="pre", activation="swiglu", mlp_bias=False,
                   num_kv_heads=2, tie_embeddings=False, remat="full", attention_chunk=2, loss_chunk=2),
    "same_length": dict(same_length=True, clamp_length=4, untie_biases=True, norm_position="pre", activation="gelu",
                        num_kv_heads=1, output_bias=True, scan_layers=False, remat="dots", attention_chunk=3,
                        loss_chunk=3),
    "adaptive": dict(adaptive_cutoffs=(3, 7), adaptive_divisor=2, norm="rms", activation="swiglu", output_bias=True,
                     remat="dots_no_batch"),
    "tied_projections": dict(adaptive_cutoffs=(3, 7), vocab_embed_dim=6, tie_projections=(False, True, True),
                             tie_embeddings=False, positions="rotary", activation="gelu"),
    "zeros": dict(empty_memory="zeros", same_length=True, untie_biases=True, adaptive_cutoffs=(3, 7),
                  adaptive_divisor=2, tie_projections=(False, True, True), output_bias=True),
    "heads": dict(positions="rotary", norm="rms", norm_position="pre", activation="swiglu", mlp_bias=False,
                  num_kv_heads=2, qkv_bias=True, qk_norm=True, scale_embeddings=False),
    "mixture": dict(moe=MoEConfig(num_experts=5, mlp_dim=9, period=2, num_shared_experts=1), num_layers=4,
                    activation="swiglu", remat="full"),
}

# Compilation is most of the time of these tests, and code this small runs no faster optimized.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# Two programs of one function have the same bits as XLA makes them by default, not as tests/conftest.py asks it to.
jit_by_default = functools.partial(jax.jit, compiler_options={
    "xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": True})


@dataclasses.dataclass(frozen=True)
class TinyModel:
  config: TransformerConfig
  lm: LanguageModel
  params: Any
  log_probs: Callable  # LanguageModel.log_probs, compiled.


def make(**changes) -> TinyModel:
  """The model of these changes to the paper's; the same one for the same changes."""
  return _make(TransformerConfig(**{**_SIZES, **changes}))


@functools.cache
def _make(config):
  lm = LanguageModel(config)
  return TinyModel(config, lm, random_params(lm), jit(lm.log_probs))


def random_params(lm: LanguageModel) -> Any:
  """Normal values of a size that keeps attention far from uniform; scales of norms about 1."""
  rng = np.random.default_rng(0)

  def draw(path, shape):
    centre = 1.0 if path[-1].key == "scale" else 0.0
    return (centre + 0.4 * rng.normal(size=shape.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lm.init, jax.random.key(0)))


def random_tokens(config: TransformerConfig, length: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, config.vocab_size, (ROWS, length), dtype=np.int32)


def random_documents(length: int, seed: int = 0) -> np.ndarray:
  """Segment ids [ROWS, length]: one endless document, documents of one to nine tokens, and those with padding."""
  rng = np.random.default_rng(seed)
  ids = np.ones((ROWS, length), np.int32)
  for row in range(1, ROWS):
    starts = np.cumsum(rng.integers(1, 10, length))
    ids[row] = 1 + np.searchsorted(starts, np.arange(length), side="right")
  ids[2][rng.random(length) < 0.3] = 0
  return ids
