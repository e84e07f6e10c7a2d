"""Nothing that is not finite is saved; an update that is may be left out; and a run that has saved some is led back."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x import cli
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.finiteness import finite, Watch
from gpt4x.training.gradients import microbatched
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.step import TrainStep
from tests.integration import corpus
from tests.models import tiny
from tests.training.steps import batches, CONFIG, MEMORY, ONE_DEVICE, ROWS

TOO_LARGE = 1e39  # For float32, though neither the loss nor the gradient is.
STEP = TrainStep(LanguageModel(CONFIG), NextToken(), optimizers.adamw(1e-2), 1.0)


def run(step, fed, mesh=ONE_DEVICE):
  """The states before and after the steps on some batches, and each step's metrics."""
  partitioner = Partitioner(**mesh)
  shapes = state_shapes(step, ROWS, MEMORY, partitioner)
  states, history = [init_state(step, shapes, partitioner)], []
  with partitioner.activate():
    update = tiny.jit_by_default(step.__call__)
    for batch in fed:
      placed = {name: partitioner.global_array(rows, ROWS) for name, rows in batch.items()}
      state, metrics = update(states[-1], placed)
      states.append(state)
      history.append(jax.device_get(metrics))
  return jax.device_get(states), history


def spoil(batch):
  """A batch whose loss is not a number."""
  return batch | {"decoder_loss_weights": batch["decoder_loss_weights"] * np.float32("nan")}


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_is_finite():
  """One NaN anywhere is too much; an optimizer may hold an infinity, as the best loss so far before there is any."""
  (state, _), _ = run(STEP, list(batches(1)))
  assert finite(state)
  for name, value, expected in (("params", np.nan, False), ("params", -np.inf, False), ("opt_state", np.nan, False),
                                ("opt_state", np.inf, True), ("memory", np.nan, False), ("memory", np.inf, False)):
    leaves, structure = jax.tree.flatten(getattr(state, name))
    for i, leaf in enumerate(leaves):
      if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size:
        changed = np.array(leaf)
        changed.flat[-1] = value
        tree = jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1:]])
        assert finite(state.replace(**{name: tree})) == expected, (name, value, i)


@pytest.mark.parametrize("microbatches, mesh", [
    (1, ONE_DEVICE), (2, ONE_DEVICE), (1, {"data": 2, "fsdp": 2, "tensor": 2})], ids=["one", "microbatches", "eight"])
def test_an_update_that_makes_nan_is_told(microbatches, mesh):
  step = dataclasses.replace(STEP, optimizer=optimizers.adamw(TOO_LARGE), gradients=microbatched(microbatches))
  _, [metrics] = run(step, list(batches(1)), mesh)
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
  assert metrics["finite"] == 0
  assert [metrics["finite"] for metrics in run(STEP, list(batches(2)), mesh)[1]] == [1, 1]


@pytest.mark.parametrize("microbatches, mesh", [
    (1, ONE_DEVICE), (2, ONE_DEVICE), (1, {"data": 2, "fsdp": 2, "tensor": 2})], ids=["one", "microbatches", "eight"])
def test_a_skipped_update_is_as_if_it_had_not_been(microbatches, mesh):
  """Only the step and the memory, which is that of the batch, move on; all else is that of 'stop', bit for bit."""
  first, second, third = batches(3)
  stop = dataclasses.replace(STEP, gradients=microbatched(microbatches))
  skip = dataclasses.replace(stop, on_nonfinite="skip")
  states, history = run(skip, [first, spoil(second), third], mesh)
  assert [metrics["skipped"] for metrics in history] == [0, 1, 0] and np.isnan(history[1]["loss"])
  assert_equal(states[2], states[1].replace(step=2, memory=states[2].memory))
  assert states[2].memory.segment_ids.tolist() == second["decoder_segment_ids"][:, -MEMORY:].tolist()
  assert finite(states[2])
  expected, _ = run(stop, [first, second], mesh)
  assert_equal(states[1], expected[1])
  assert_equal(states[2].memory, expected[2].memory)


def test_a_memory_that_is_not_finite_is_emptied():
  """An embedding is too large for the stack, as after a bad restart: the next step finds no trace of it."""
  def grow(params, sums):
    return jax.tree.map(lambda leaf: leaf.at[...].set(jnp.inf), params)

  step = dataclasses.replace(STEP, on_nonfinite="skip")
  partitioner = Partitioner(**ONE_DEVICE)
  state = init_state(step, state_shapes(step, ROWS, MEMORY, partitioner), partitioner)
  state = state.replace(params=grow(state.params, None))
  after, metrics = tiny.jit(step.__call__)(state, next(batches()))
  assert metrics["skipped"] == 1
  assert_equal(after.memory, jax.tree.map(jnp.zeros_like, after.memory))
  assert_equal(after.params, state.params)


def watch(tmp_path, max_skipped=3):
  directory = Checkpoints(str(tmp_path), CheckpointConfig())
  return Watch("runs/a", directory, max_skipped), directory


GOOD = {"loss": 1.0, "gradient_norm": 1.0, "finite": 1.0}


def test_a_run_stops_at_once_and_says_where_to_go_on(tmp_path):
  found, directory = watch(tmp_path)
  assert found.check(1, dict(GOOD)) == {"loss": 1.0, "gradient_norm": 1.0}
  with pytest.raises(UserError, match="what step 2 made is not finite, though its loss 1.0 .* start again"):
    found.check(2, GOOD | {"finite": 0.0})
  directory.save(2, {"params": {"w": jnp.ones(3)}}, {}, "", 0)  # On its way to the disk.
  with pytest.raises(UserError, match="loss nan .* at step 3 are not both finite: .* from step 2: gpt4x train"
                                      " --model_dir=runs/a --step=2$"):
    found.check(3, GOOD | {"loss": float("nan"), "finite": 0.0})
  directory.close()


def test_a_run_that_skips_stops_after_too_many_in_a_row(tmp_path):
  found, _ = watch(tmp_path)
  bad = {"loss": float("nan"), "gradient_norm": 1.0, "finite": 0.0, "skipped": 1.0}
  for step, metrics in enumerate([bad, bad, GOOD | {"skipped": 0.0}, bad, bad]):
    assert "finite" not in found.check(step, dict(metrics))
  with pytest.raises(UserError, match="at step 5 .* 3 updates in a row were skipped .train.max_skipped"):
    found.check(5, dict(bad))


@pytest.mark.parametrize("field, value", [("on_nonfinite", "ignore"), ("max_skipped", 0)])
def test_mistakes(field, value, tmp_path, capsys):
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", **{f"train__{field}": value})
  assert cli.main(flags) == 2
  assert f"train.{field} = {value!r}" in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / "run").exists()


lines = lambda model_dir: [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def test_nan_is_never_saved(tmp_path, capsys):
  """At a saving step that is the last besides, where no later step would find it."""
  text = corpus.write(tmp_path / "text")
  wrong = {"adamw__learning_rate": TOO_LARGE, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": 1}
  assert cli.main(corpus.flags(text, tmp_path / "run", TRAIN_STEPS=1, **wrong)) == 1
  last = capsys.readouterr().err.splitlines()[-1]
  assert "what step 1 made is not finite" in last and last.endswith("start again")
  assert Checkpoints(str(tmp_path / "run")).steps() == []
  # Those of a run that skips are counted in its metrics, whatever the period of these.
  assert cli.main(corpus.flags(text, tmp_path / "skip", TRAIN_STEPS=9, train__on_nonfinite="skip", train__max_skipped=4,
                               train__log_period=10, **wrong)) == 1
  assert "4 updates in a row" in capsys.readouterr().err.splitlines()[-1]
  assert [(line["step"], line["skipped"]) for line in lines(tmp_path / "skip")] == [(1, 1), (2, 1), (3, 1)]
  assert Checkpoints(str(tmp_path / "skip")).steps()[-1] == 3


def test_a_run_that_has_saved_nan_is_led_back(tmp_path, capsys):
  """As an earlier version has left it: its newest checkpoints hold NaN, and the last good one is old."""
  text, model_dir = corpus.write(tmp_path / "text"), tmp_path / "run"
  flags = corpus.flags(text, model_dir, TRAIN_STEPS=24, EVAL_PERIOD=24, Partitioner__data=1, Partitioner__num_devices=1)
  assert cli.main(flags) == 0
  expected = lines(model_dir)
  for step, spoiled in ((16, "memory"), (24, "params")):
    spoil_checkpoint(model_dir, step, spoiled)
  for _ in range(2):
    assert cli.main(flags) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint 24" in last and last.endswith(f"step 8: gpt4x train --model_dir={model_dir} --step=8")
    assert Checkpoints(str(model_dir)).steps() == [8, 16, 24]
  assert cli.main(["train", f"--model_dir={model_dir}", "--step=9"]) == 1
  assert "no checkpoint of step 9" in capsys.readouterr().err.splitlines()[-1]
  assert cli.main(["train", f"--model_dir={model_dir}", "--step=8"]) == 0
  assert "24 is kept as 24.aside" in capsys.readouterr().err
  assert {"8", "16", "16.aside", "24", "24.aside"} == {path.name for path in (model_dir / "checkpoints").iterdir()}
  assert [(line["step"], line["split"], line["loss"]) for line in lines(model_dir)] == [
      (line["step"], line["split"], line["loss"]) for line in expected]
  shutil.rmtree(model_dir / "checkpoints" / "8")
  shutil.rmtree(model_dir / "checkpoints" / "16")
  spoil_checkpoint(model_dir, 24, "params")
  assert cli.main(flags) == 1
  assert "start in a new model directory" in capsys.readouterr().err.splitlines()[-1]


def spoil_checkpoint(model_dir, step, part):
  """Puts a NaN into a checkpoint, which is otherwise as it was."""
  from gpt4x.training.config import TrainConfig
  config = TrainConfig()  # As gin has it, from the last command.
  shapes = state_shapes(config.step, 8, 8, config.partitioner)
  directory = Checkpoints(str(model_dir), CheckpointConfig(keep=9))
  _, state, data_state = directory.restore(shapes, step)
  spoiled = lambda leaf: leaf.at[-1].set(jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
  state = state.replace(**{part: jax.tree.map(spoiled, getattr(state, part))})
  text = directory.config_text(step)
  shutil.rmtree(model_dir / "checkpoints" / str(step))
  directory.save(step, state, data_state, text, seed=config.seed)
  directory.close()


def test_an_update_may_count_for_itself():
  """The count of a schedule stands still with the rest of the optimizer, so a skipped update costs no warmup."""
  step = dataclasses.replace(STEP, optimizer=optimizers.adamw(lambda count: 1e-3 * (count + 1)), on_nonfinite="skip")
  first, second, third = batches(3)
  _, history = run(step, [first, spoil(second), third])
  np.testing.assert_allclose([metrics["learning_rate"] for metrics in history], [1e-3, 2e-3, 2e-3], rtol=1e-6)
