"""Steps of a small model on any mesh, each run once per process."""

import dataclasses
import functools

import jax
import numpy as np

from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.training.every_optimizer import OPTIMIZERS

ROWS, LENGTH, MEMORY, STEPS = 8, 6, 5, 4
CONFIG = TransformerConfig(vocab_size=16, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=32, memory_length=MEMORY,
                           norm_position="pre")
ONE_DEVICE = dict(data=1, num_devices=1)
# By blocks of an MLP and a mixture; with its capacity some choices are dropped.
MIXTURE = MoEConfig(num_experts=4, period=2, mlp_dim=24, num_shared_experts=1, router_z_loss=0.01, bias_rate=0.01)
CAPACITY = dataclasses.replace(MIXTURE, capacity_factor=1.0, jitter=0.1)


def batches(steps=STEPS):
  rng = np.random.default_rng(0)
  for step in range(steps):
    tokens = rng.integers(1, 16, (ROWS, LENGTH + 1), dtype=np.int32)
    documents = 1 + (np.arange(LENGTH) + step * LENGTH + np.arange(ROWS)[:, None]) // 9
    yield {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
           "decoder_segment_ids": documents.astype(np.int32),
           "decoder_loss_weights": (rng.random((ROWS, LENGTH)) < 0.8).astype(np.float32)}


@functools.cache
def run(microbatches=1, optimizer="sgd", mesh=None, remat="none", moe=None, steps=STEPS):
  """The state after some steps, and each step's metrics; by SGD, for Adam turns rounding into signs.

  `mesh` holds the items of Partitioner's arguments; None: one device.
  """
  step, state, partitioner = prepare(microbatches, optimizer, dict(mesh) if mesh else ONE_DEVICE, remat=remat, moe=moe)
  history = []
  with partitioner.activate():
    for batch in batches(steps):
      state, metrics = step(state, {name: partitioner.global_array(rows, ROWS) for name, rows in batch.items()})
      history.append(jax.device_get(metrics))
  return jax.device_get(state), history, jax.tree.map(lambda x: x.sharding, state.params)


def prepare(microbatches, optimizer, mesh, **changes):
  """The train step, the state before it, and the mesh."""
  model = LanguageModel(TransformerConfig(**{**CONFIG.__dict__, **changes}))
  partitioner = Partitioner(**mesh)
  train_step = TrainStep(model, NextToken(), OPTIMIZERS[optimizer](0.1 if optimizer == "sgd" else 1e-2), 1.0,
                         microbatched(microbatches))
  shapes = state_shapes(train_step, ROWS, MEMORY, partitioner)
  step = tiny.jit(train_step.__call__, donate_argnums=0,
                  out_shardings=(jax.tree.map(lambda shape: shape.sharding, shapes), partitioner.replicated))
  if changes["moe"] and mesh != ONE_DEVICE:  # Dense models show that a fresh state does not depend on the mesh.
    _, state, _ = prepare(microbatches, optimizer, ONE_DEVICE, **changes)
    return step, jax.device_put(state, jax.tree.map(lambda shape: shape.sharding, shapes)), partitioner
  return step, init_state(train_step, shapes, partitioner), partitioner


def assert_same(one, other, atol=2e-5):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=atol), one[:2], other[:2])
