"""A small train state, and a model directory with checkpoints of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints

DATA = {"rows": [[5, 17], [6, 0]], "epoch": 1}
CONFIG = "train.seed = 3\nNAME = 'π'\n"


class State(NamedTuple):
  step: Any
  params: Any
  opt_state: Any
  memory: Any


def make_state(step=1, width=16):
  values = np.random.default_rng(step)
  params = {
      "embedding": {"table": jnp.asarray(values.normal(size=(40, width)), jnp.float32)},
      "decoder": {"layers": {"mlp": {"wi": jnp.asarray(values.normal(size=(2, width, 32)), jnp.float32)}}},
  }
  memory = {"hidden": jnp.asarray(values.normal(size=(2, 8, 4, width)), jnp.bfloat16),
            "none": None, "of_no_length": jnp.zeros((2, 8, 0, width))}
  return State(jnp.int32(step), params, optax.adamw(1e-3).init(params), memory)


def abstract(tree, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree)


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save_steps(model_dir, *steps, **config):
  writer = Checkpoints(str(model_dir), CheckpointConfig(**config))
  for step in steps:
    writer.save(step, make_state(step), DATA | {"epoch": step}, CONFIG, seed=3)
  writer.close()
