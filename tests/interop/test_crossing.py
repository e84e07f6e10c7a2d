"""Checkpoints in t5x's layout, without t5x."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gpt4x import cli
from gpt4x.checkpoints import layout
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.interop.t5x import crossing
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training.config import TrainConfig
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.step import TrainStep
from tests.integration import corpus
from tests.models import tiny
from tests.training.every_optimizer import OPTIMIZERS

ONE_DEVICE = {"Partitioner__data": 1, "Partitioner__num_devices": 1}


@pytest.mark.parametrize("memory_length", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_leaf_has_a_name_in_t5x(name, memory_length):
  step = TrainStep(tiny.make().lm, NextToken(), OPTIMIZERS[name](1e-2), clip_norm=1.0)
  partitioner = Partitioner(data=1, num_devices=1)
  shapes = state_shapes(step, 2, memory_length, partitioner)
  state = init_state(step, shapes, partitioner)
  leaves = crossing._t5x_leaves(state)
  assert {"target/vocabulary/table", "state/step"} <= set(leaves)
  assert ("flax_mutables" in layout.nested(leaves)) == bool(memory_length)
  restored = crossing._from_t5x_leaves(shapes, leaves)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_our_loop_continues_a_run_that_t5x_has_taken_further(tmp_path):
  """t5x's checkpoint is ahead of ours; what it replaces is made from a run that took those steps here."""
  text = corpus.write(tmp_path / "text")
  flags = lambda name, **changes: corpus.flags(text, tmp_path / name, **ONE_DEVICE, **changes)
  lines = lambda name: [line for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
                        if line["split"] == "train"]
  assert cli.main(flags("straight", TRAIN_STEPS=24)) == 0
  assert cli.main(flags("crossed", TRAIN_STEPS=8, EVAL_PERIOD=None)) == 0
  assert cli.main(flags("ahead", TRAIN_STEPS=16, EVAL_PERIOD=None)) == 0

  run = crossing.Crossing(str(tmp_path / "ahead"), TrainConfig())  # As gin has it.
  step, state, data_state = run.state_ahead_of_t5x()
  assert step == 16
  directory = tmp_path / "crossed" / "checkpoint_16"
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(directory / "state", state)
  (directory / "dataset").mkdir()
  (directory / "dataset" / "train_ds-000-of-001").write_text(json.dumps(data_state))

  assert cli.main(flags("crossed", TRAIN_STEPS=24, EVAL_PERIOD=None)) == 0
  assert Checkpoints(str(tmp_path / "crossed")).steps() == [8, 16, 24]
  losses = {line["step"]: line["loss"] for line in lines("straight")}
  crossed = {line["step"]: line["loss"] for line in lines("crossed")}
  assert sorted(crossed) == [*range(1, 9), *range(17, 25)]
  assert all(crossed[step] == losses[step] for step in crossed)
