"""A model in another directory: how it is read, kept to, and told of."""

import json
import shutil

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x import configuration
from gpt4x.checkpoints import frozen_models
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.checkpoints.reader import Reader
from gpt4x.errors import CommandError, UserError
from gpt4x.models import saved_model
from gpt4x.models.config import TransformerConfig
from gpt4x.partitioning import Partitioner
from tests.models import tiny

MODEL = tiny.make(vocab_size=12, embed_dim=16, num_heads=2, memory_length=3)
CONFIG = """
Experiment.model = @LanguageModel()
Experiment.dataset = @DatasetConfig()
DatasetConfig.mixture_or_task_name = 'no_task'
DatasetConfig.task_feature_lengths = {'targets': 4}
DatasetConfig.batch_size = 2
LanguageModel.config = @TransformerConfig()
"""
ONE_DEVICE = {"data": 1, "num_devices": 1}


def write(folder, *steps, config=MODEL.config, text=CONFIG):
  """A model directory whose parameters, at each step, are the model's times the step."""
  folder.mkdir(exist_ok=True)
  fields = {name: value for name, value in vars(config).items() if value is not None}
  (folder / "config.gin").write_text(text + "".join(
      f"TransformerConfig.{name} = {value!r}\n" for name, value in fields.items()))
  checkpoints = Checkpoints(str(folder), CheckpointConfig())
  for step in steps:
    params = jax.tree.map(lambda leaf, step=step: step * jnp.asarray(leaf), MODEL.params)
    checkpoints.save(step, {"params": params}, {}, "", 0, wait=True)
  checkpoints.close()
  return folder


@pytest.fixture(name="teacher", scope="module")
def _teacher(tmp_path_factory):
  return write(tmp_path_factory.mktemp("teacher"), 1, 2)


def read(folder, **options):
  return {"teacher": saved_model.read("Distillation.teacher", str(folder), **options)}


# The model.


def test_a_model_is_read_and_gin_keeps_what_it_had(tmp_path):
  """The configuration, the places that its checks tell of, and the scopes that are open."""
  configuration.load(bindings=["TransformerConfig.vocab_size=77", "TransformerConfig.num_heads=1", "MINE=5",
                               "TransformerConfig.num_layers=%MINE"])
  teacher = write(tmp_path / "teacher", text=CONFIG + "mine/TransformerConfig.dropout_rate = 0.5\n")
  with gin.config_scope("mine"):
    text = configuration.config_text()
    assert read(teacher)["teacher"].model.config == MODEL.config
    assert configuration.config_text() == text and gin.current_scope() == ["mine"]
  assert TransformerConfig().vocab_size == 77 and TransformerConfig().num_layers == 5
  with pytest.raises(CommandError, match="--gin.MINE=5: TransformerConfig.num_layers = 5 is"), configuration.placing():
    raise UserError("TransformerConfig.num_layers = 5 is wrong")


def test_gin_keeps_what_it_had_where_a_model_cannot_be_read(tmp_path):
  configuration.load(bindings=["TransformerConfig.vocab_size=77"])
  text = configuration.config_text()
  with pytest.raises(UserError):
    read(write(tmp_path / "teacher", text="Experiment.mode = 1\n"))
  assert configuration.config_text() == text


@pytest.mark.parametrize("text, words", [
    (None, "has no config.gin: name the directory of a run or of a converted model"),
    (CONFIG.replace("@DatasetConfig()", "5"), "cannot be read .*config.gin:3: Experiment.dataset = 5 must be @Dataset"),
    ("import of_nobody\n" + CONFIG, None),
    (CONFIG.replace("@LanguageModel", "@CodecModel") + "CodecModel.config = @CodecConfig()\n"
     "CodecConfig.medium = 'image'\n", "holds a CodecModel: name a language model"),
    ("", "cannot be read"),
])
def test_a_directory_without_a_model(tmp_path, text, words):
  """What only its data needs may be missing, as for `generate`."""
  folder = write(tmp_path / "teacher", text=text or "")
  if not text:
    (folder / "config.gin").write_text("") if text == "" else (folder / "config.gin").unlink()
  if words is None:
    assert read(folder)["teacher"].model.config == MODEL.config
    return
  with pytest.raises(UserError, match=f"^Distillation.teacher = '.*teacher' {words}") as caught:
    read(folder)
  assert "\n" not in str(caught.value)


# Its parameters.


@pytest.mark.parametrize("mesh", [ONE_DEVICE, {"data": 2, "fsdp": 2, "tensor": 2}], ids=["one", "eight"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_parameters_come_onto_the_mesh_in_a_dtype(teacher, mesh, dtype):
  """As the shapes say, which `plan` counts; what is no kernel stays as it was."""
  models, partitioner = read(teacher, dtype=dtype), Partitioner(**mesh)
  shapes = frozen_models.shapes(models, partitioner)
  found = frozen_models.load(models, frozen_models.find(models, {}), partitioner)
  flat = jax.tree_util.tree_leaves_with_path(found["teacher"])
  for (path, leaf), shape, own in zip(flat, jax.tree.leaves(shapes["teacher"]), jax.tree.leaves(MODEL.params)):
    kernel = not any(word in path[-1].key for word in ("bias", "scale"))
    assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)
    assert leaf.dtype == (jnp.bfloat16 if kernel and dtype == "bfloat16" else jnp.float32), path
    np.testing.assert_array_equal(leaf, jnp.asarray(2 * own).astype(leaf.dtype))


# Which checkpoint it is.


def test_the_newest_is_taken_or_the_one_that_is_named(teacher):
  for options, step in (({}, 2), ({"step": 1}, 1)):
    found = frozen_models.find(read(teacher, **options), {})["teacher"]
    assert found[:2] == (str(teacher), step) and len(found[2]) == 64
  with pytest.raises(UserError, match="no checkpoint of step 7 .*the steps there are .1, 2."):
    frozen_models.find(read(teacher, step=7), {})


def test_a_run_keeps_to_what_it_has_had(teacher, tmp_path):
  """Though there is a newer one; and wherever it has been moved to."""
  known = frozen_models.find(read(teacher, step=1), {})
  assert frozen_models.find(read(teacher), known) == known
  moved = tmp_path / "moved"
  shutil.copytree(teacher, moved)
  (directory, *content), = frozen_models.find(read(moved), known).values()
  assert directory == str(moved) and tuple(content) == known["teacher"][1:]


def test_another_model_is_refused_or_told_of(teacher, tmp_path, capsys):
  known = frozen_models.find(read(teacher, step=1), {})
  others = [read(teacher, step=2), read(write(tmp_path / "of_one_step", 2)), read(write(tmp_path / "of_that_step", 1))]
  for models in others[:2]:
    with pytest.raises(UserError, match="^Distillation.teacher = '.*' has other parameters at step 2 than this run has"
                       " had, from step 1 of .*: give it the directory where those lie now, or start in a new"):
      frozen_models.find(models, known)
    assert frozen_models.find(models, known, strict=False)["teacher"][1] == 2
    assert capsys.readouterr().err.startswith("gpt4x: warning: Distillation.teacher = ")


def test_a_checkpoint_says_what_was_frozen(teacher, tmp_path):
  models = read(teacher)
  references = frozen_models.find(models, {})
  checkpoints = Checkpoints(str(tmp_path), CheckpointConfig())
  state = {"params": {"w": jnp.ones(3)}, "frozen": {"teacher": MODEL.params}}
  checkpoints.save(1, state, {}, "", 0, wait=True)
  checkpoints.save(2, state, {}, "", 0, wait=True, frozen=references)
  checkpoints.close()
  reader = Reader(str(tmp_path))
  assert reader.frozen() == reader.frozen(2) == references
  assert reader.frozen(1) == {} == Reader(str(tmp_path / "nothing")).frozen()
  record = lambda step: json.loads((tmp_path / "checkpoints" / str(step) / "checkpoint.json").read_text())["record"]
  assert "frozen" not in record(1) and record(2)["frozen"] == {"teacher": [str(teacher), *references["teacher"][1:]]}


@pytest.mark.parametrize("frozen", [{"teacher": "there"}, {"teacher": ["there", "2", "abc"]}, [], {"teacher": []}])
def test_a_record_that_says_something_else_is_damaged(tmp_path, monkeypatch, frozen):
  checkpoints = Checkpoints(str(tmp_path), CheckpointConfig())
  checkpoints.save(1, {"params": {"w": jnp.ones(3)}}, {}, "", 0, wait=True, frozen={"teacher": ("there", 2, "abc")})
  checkpoints.close()
  path = tmp_path / "checkpoints" / "1" / "checkpoint.json"
  content = json.loads(path.read_text())
  content["record"]["frozen"] = frozen
  monkeypatch.setattr("gpt4x.checkpoints.integrity._crc32_of_json", lambda _: content["crc32"])
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match="every checkpoint .* is damaged .*has no frozen as a checkpoint has it"):
    Reader(str(tmp_path)).frozen()
