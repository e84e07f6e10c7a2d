"""What a run was told is what is saved: a TrainConfig as gin text, whatever it was made of, and read again."""

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.row_mixture import RowMixture
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.models.codec_model import CodecModel
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.config import TrainConfig

EXPERIMENTS = sorted(path.name for path in (configuration.SHIPPED / "experiments").glob("*.gin"))


def read_again(config: TrainConfig) -> TrainConfig:
  """The run of a config's saved text, as `gpt4x train --model_dir=DIR` reads it."""
  configuration.load(text=config.gin_text)
  return configuration.build(TrainConfig)


def parts(config: Any) -> Any:
  """A config as nested dicts; an optimizer as the updates that it makes."""
  if hasattr(config, "_gpt4x_made_by"):
    return updates(config)
  if dataclasses.is_dataclass(config):
    fields = [field.name for field in dataclasses.fields(config) if field.name not in ("mesh", "read_from")]
    return {name: parts(getattr(config, name)) for name in fields}
  if isinstance(config, LanguageModel | CodecModel):
    return parts(config.config)
  return config


def updates(optimizer: Any) -> list[float]:
  shapes, declarations = DECLARED
  transformation = optimizers.complete(optimizer, declarations)
  params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
  found, state = [], transformation.init(params)
  for step in range(3):
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1 * (step + 1)), params)
    change, state = transformation.update(gradients, state, params)
    found.append(float(optax.tree.norm(change)))
  return found


SMALL = TransformerConfig(vocab_size=384, num_heads=2, num_layers=2, embed_dim=16, mlp_dim=32, dtype="float32")
DECLARED = LanguageModel(SMALL).declared


def from_python(**changes: Any) -> TrainConfig:
  data = DatasetConfig("stdlib_bytes", {"targets": 8}, 4, seed=3)
  config = TrainConfig(Experiment(LanguageModel(SMALL), data), optimizers.adamw(0.1), total_steps=9,
                       partitioner=Partitioner(data=1, num_devices=1))
  return dataclasses.replace(config, **changes)


PODS = "dense_70b", "mixture", "multimodal"  # Their meshes need more devices.


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if not any(part in name for part in PODS)])
def test_a_run_read_from_gin_and_changed_is_saved_as_changed(name):
  unset = ["TRAIN_STEPS=5", "MIXTURE_OR_TASK_NAME='stdlib_bytes'"] if name == "pretrain.gin" else []
  config = reading.new_run([f"experiments/{name}"], ["LocalText.files='*.txt'", *unset])
  assert config.gin_text == configuration.config_text()
  changed = dataclasses.replace(
      config, total_steps=11, seed=7, clip_norm=None, optimizer=optimizers.lion(optimizers.warmup_linear(0.1, 2, 30)),
      experiment=dataclasses.replace(config.experiment, objective=NextToken(z_loss=0.5)))
  text = changed.gin_text
  assert "LocalText.files = '*.txt'" in text and "muon" not in text
  again = read_again(changed)
  assert parts(again) == parts(changed) and parts(again) != parts(config)
  # A macro that still says what it said can still be set; one that does not is gone.
  of_rows = isinstance(config.experiment.dataset, RowMixture)  # Whose parts have batch sizes of their own.
  macro, read = ("EVAL_STEPS", lambda found: found.eval_batches) if of_rows else (
      "BATCH_SIZE", lambda found: found.experiment.dataset.batch_size)
  configuration.load(text=text, bindings=[f"{macro}=48"])
  assert read(configuration.build(TrainConfig)) == 48
  with pytest.raises(UserError, match="nothing reads the macro TRAIN_STEPS"):
    configuration.load(text=text, bindings=["TRAIN_STEPS=48"])


@pytest.mark.parametrize("optimizer", [
    optimizers.adamw(0.1), optimizers.adamw(optimizers.constant(0.2), b1=0.8), optimizers.sgd(1.0, nesterov=True),
    optimizers.adafactor(0.1), optimizers.muon(optimizers.inverse_square_root(0.1, warmup_steps=2)),
    optimizers.lion(optimizers.warmup_stable_decay(0.1, warmup_steps=1, decay_steps=2, total_steps=5)),
    optimizers.adamw(optimizers.warmup_cosine(0.3, 2, 10, final_fraction=0.5))])
def test_a_run_made_in_python_without_gin(optimizer):
  mixture = dataclasses.replace(SMALL, moe=MoEConfig(num_experts=4, period=2), adaptive_cutoffs=(100, 200))
  config = from_python(optimizer=optimizer, eval_period=2, trained="layers/.*", experiment=Experiment(
      LanguageModel(mixture), DatasetConfig("docstrings", {"inputs": 3, "targets": 5}, 4, "prefix_lm", pack=True)))
  assert parts(read_again(config)) == parts(config)


def test_objects_of_one_class_that_differ_have_scopes():
  holder = Holder([Leaf(1), Leaf(2), Leaf(1)], Leaf(2, Leaf(3, Leaf(1))))
  text, lacking = configuration.objects.text_of(holder)
  configuration.load(text=text)
  assert configuration.build(Holder) == holder and not lacking


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Leaf:
  size: int
  inner: object = None


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Holder:
  leaves: list
  one: Leaf


@gin.configurable
class Forgetful(NextToken):
  """An objective that does not keep its argument."""

  def __init__(self, weight: float = 0.0):
    super().__init__()


class Unregistered(NextToken):
  """An objective that gin does not know."""


def some_change(params, sums):
  return params


@pytest.mark.parametrize("objective, words", [
    (Unregistered(), r"Experiment.objective: Unregistered\(.* is of no class or function that gin knows"),
    (Forgetful(2.0), "Experiment.objective: Forgetful does not keep its argument weight"),
    (NextToken(float("nan")), "NextToken.z_loss: nan has no literal"),
    (NextToken(np.float32(0.5)), "NextToken.z_loss: .*is of no class or function that gin knows")])
def test_what_evaluation_needs_and_gin_cannot_say_is_refused(objective, words):
  config = from_python()
  with pytest.raises(UserError, match=words):
    _ = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, objective=objective)).gin_text


def test_what_only_training_needs_and_gin_cannot_say_is_said(capsys):
  config = from_python(optimizer=optax.nadamw(0.1), after_update=(some_change,))
  text = config.gin_text
  assert "train.optimizer and train.after_update cannot be written as gin" in capsys.readouterr().err
  configuration.load(text=text)
  assert parts(configuration.build(Experiment)) == parts(config.experiment)
  with pytest.raises(UserError, match="^train.optimizer is not set"):
    configuration.build(TrainConfig)


def test_gin_that_was_read_again_is_another_run_s():
  config = reading.new_run(["experiments/local_text_tiny.gin"], ["LocalText.files='a'"])
  reading.new_run(["experiments/local_text_tiny.gin"], ["LocalText.files='b'"])
  with pytest.raises(UserError, match="gin has been read again"):
    _ = config.gin_text
