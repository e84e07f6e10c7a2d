"""What a run may be told of its step: which parameters are trained, what is frozen, what comes after an update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.saved_model import SavedModel
from gpt4x.objectives.distillation import Distillation
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.config import TrainConfig
from gpt4x.training.gradients import whole
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.step import TrainStep
from tests.models import tiny
from tests.training.steps import batches, CONFIG, MEMORY, ONE_DEVICE, ROWS

MODEL = LanguageModel(CONFIG)


def run(step, partitioner=None, frozen=None):
  """The state before and after a step, and its metrics."""
  partitioner = partitioner or Partitioner(**ONE_DEVICE)
  shapes = state_shapes(step, ROWS, MEMORY, partitioner, frozen)
  state = init_state(step, shapes, partitioner)
  with partitioner.activate():
    batch = {name: partitioner.global_array(rows, ROWS) for name, rows in next(batches()).items()}
    after, metrics = tiny.jit(step.__call__)(state, batch)
  return state, after, metrics


def config(**options):
  experiment = Experiment(MODEL, DatasetConfig("no_task", {"targets": 6}, batch_size=ROWS))
  return TrainConfig(experiment, optimizers.adamw(0.1), total_steps=1, partitioner=Partitioner(**ONE_DEVICE), **options)


def moved(before, after):
  names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
           for path, leaf in jax.tree_util.tree_leaves_with_path(before)}
  return {name for (name, old), new in zip(names.items(), jax.tree.leaves(after)) if (old != new).any()}


def test_only_what_is_named_is_trained():
  """The rest stays as it is, has no optimizer state, and is in the parameters that are saved."""
  state, after, metrics = run(config(trained="layers/attention/.*").step)
  assert moved(state.params, after.params) == {
      f"layers/attention/{name}" for name in ("query", "key", "value", "relative_key", "out")}
  everything = jax.eval_shape(config().step.transformation.init, state.params)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  attention = size(state.params["layers"]["attention"])
  assert size(everything) - size(state.opt_state) == 2 * (size(state.params) - attention)
  assert 0 < metrics["gradient_norm"] < run(config().step)[2]["gradient_norm"]


def test_a_name_that_trains_nothing_is_told():
  with pytest.raises(UserError, match="train.trained = 'decoder/.*' matches no parameter"):
    config(trained="decoder/.*").step  # noqa: B018  A property that raises.


def test_every_option_reaches_the_step(monkeypatch):
  monkeypatch.setattr("gpt4x.training.config.microbatched", lambda parts: ("microbatches", parts))
  change = lambda params, sums: params
  run = config(microbatches=2, clip_norm=0.5, seed=7, trained="layers/.*", after_update=(change,))
  step = run.step
  assert step.gradients == ("microbatches", 2)
  assert (step.clip_norm, step.seed, step.after_update) == (0.5, 7, (change,))
  assert step.trained("layers/attention/query") and not step.trained("vocabulary/embedding")
  assert (step.model, step.objective) == (run.experiment.model, run.experiment.objective)
  assert step.optimizer is run.optimizer


def test_dropout_draws_by_the_seed_and_the_step():
  """A step repeats itself, and no other: neither the step after it nor that of another seed."""
  model = LanguageModel(dataclasses.replace(CONFIG, dropout_rate=0.5))
  step = TrainStep(model, NextToken(), optimizers.sgd(0.1))
  partitioner = Partitioner(**ONE_DEVICE)
  state, batch = init_state(step, state_shapes(step, ROWS, MEMORY, partitioner), partitioner), next(batches())
  loss = lambda step: tiny.jit(lambda at: step(state.replace(step=at), batch)[1]["loss"])
  of_seed_0, of_seed_1 = loss(step), loss(dataclasses.replace(step, seed=1))
  assert of_seed_0(0) == of_seed_0(0)
  assert len({float(one) for one in (of_seed_0(0), of_seed_0(1), of_seed_0(2), of_seed_1(0))}) == 4


def test_what_comes_after_an_update_sees_it_and_its_sums():
  def halve(params, sums):
    return jax.tree.map(lambda leaf: leaf / (1 + (sums["loss"].weight > 0)), params)

  negate = lambda params, sums: jax.tree.map(jnp.negative, params)
  _, plain, _ = run(config().step)
  _, changed, _ = run(config(after_update=(halve, negate)).step)
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, -other / 2), changed.params, plain.params)


def test_another_way_to_the_gradient():
  """The place of per-row clipped gradients: whatever comes out is what the optimizer sees."""
  def doubled(*arguments):
    gradients, sums, memory = whole(*arguments)
    return jax.tree.map(lambda leaf: 2 * leaf, gradients), sums, memory

  step = TrainStep(MODEL, NextToken(), optimizers.sgd(0.1), gradients=doubled)
  _, _, metrics = run(step)
  _, _, plain = run(TrainStep(MODEL, NextToken(), optimizers.sgd(0.1)))
  np.testing.assert_allclose(metrics["gradient_norm"], 2 * plain["gradient_norm"], rtol=1e-5)


@pytest.mark.parametrize("mesh", [ONE_DEVICE, {"data": 2, "fsdp": 2, "tensor": 2}], ids=["one", "eight"])
def test_a_teacher_and_two_memories(mesh, tmp_path):
  """A frozen teacher of another shape beside the student, on a mesh too; it is neither moved nor saved."""
  teacher = LanguageModel(tiny.TransformerConfig(**{**CONFIG.__dict__, "num_layers": 1, "embed_dim": 8, "head_dim": 4}))
  frozen = {"teacher": teacher.init(jax.random.key(1))}
  objective = Distillation("nowhere", saved=SavedModel("Distillation.teacher", "nowhere", teacher))
  step = TrainStep(MODEL, objective, optimizers.sgd(0.1), 1.0)
  partitioner = Partitioner(**mesh)
  state, after, metrics = run(step, partitioner, frozen)
  assert metrics["distillation"] > 0 and set(after.memory) == {"student", "teacher"}
  assert not moved(state.frozen, after.frozen) and moved(state.params, after.params)
  one = run(step, frozen=frozen)[2]
  np.testing.assert_allclose(metrics["distillation"], one["distillation"], rtol=1e-4)

  checkpoints = Checkpoints(tmp_path / "run", CheckpointConfig())
  checkpoints.save(1, after, data_state={}, config_text="", seed=0, wait=True)
  shapes = state_shapes(step, ROWS, MEMORY, partitioner, frozen)
  _, restored, _ = checkpoints.restore(shapes)
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restored, after)
