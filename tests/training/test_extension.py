"""A text model that media are added to, by `train.init_from`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x import cli
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.interop.t5x import crossing
from gpt4x.media.medium import Image
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.places import CodePlaces
from gpt4x.partitioning import Partitioner
from tests.integration import corpus
from tests.models import tiny

TEXT, TASK = 259, "toy_extended"
VOCABULARY = MediaVocabulary(MediaTokens(image="grey", sizes=8))
SIZE = 600  # More than the vocabulary has.


@pytest.fixture(scope="module", autouse=True)
def _task():
  def encode(i):
    pixels = np.random.default_rng(int(i)).integers(0, 256, (3, 2, 1), np.uint8)
    return VOCABULARY.encode_parts([f"picture {i}: ", Image(pixels)])

  def targets(dataset):
    return dataset.map(lambda i: {"targets": tf.ensure_shape(tf.numpy_function(encode, [i], tf.int32), [None])})

  seqio.TaskRegistry.add(
      TASK, source=seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: tf.data.Dataset.range(40), ["train", "validation"]),
      preprocessors=[targets, seqio.preprocessors.append_eos],
      output_features={"targets": seqio.Feature(VOCABULARY, add_eos=True)})
  yield
  seqio.TaskRegistry.remove(TASK)


def language_model(vocab_size, **options):
  return LanguageModel(TransformerConfig(**dict(
      vocab_size=vocab_size, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=16, memory_length=4) | options))


def write_run(folder, model, vocabulary):
  params = jax.tree.map(jnp.asarray, tiny.random_params(model))
  if vocabulary is not None:
    vocabularies.save(vocabulary, folder)
  checkpoints = Checkpoints(str(folder), CheckpointConfig())
  checkpoints.save(0, {"params": params}, data_state={}, seed=0, config_text="", wait=True)
  checkpoints.close()
  return params


def experiment(**options):
  return Experiment(language_model(SIZE, **options), DatasetConfig(TASK, {"targets": 16}, 2))


def logits(model, params, tokens):
  return np.asarray(model.logits(params, tokens, model.initial_memory(len(tokens), 0))[0])


@pytest.mark.parametrize("options, known, mesh", [
    ({}, TEXT, {}), ({"tie_embeddings": False, "output_bias": True}, TEXT, {}),
    ({"tie_embeddings": False, "vocab_embed_dim": 8}, 300, {}), ({"output_bias": True}, 700, {}),
    ({"tie_embeddings": False, "output_bias": True}, TEXT, {"data": 2, "fsdp": 2, "tensor": 2}),
    ({"code_places": CodePlaces(TEXT, 8)}, TEXT, {}),
], ids=["tied", "untied", "projected", "room", "mesh", "places"])
def test_text_has_the_logits_that_it_had(tmp_path, options, known, mesh):
  """To rounding, whatever room for ids the text model had; all other ids are fresh, by the new run's seed."""
  old, new = language_model(known, **options | {"code_places": None}), experiment(**options)
  params = write_run(tmp_path, old, seqio.ByteVocabulary())
  partitioner = Partitioner(**mesh or {"data": 1, "num_devices": 1})
  new.to_train(str(tmp_path / "new"), False, str(tmp_path))
  fresh = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), new.model.init(jax.random.key(3)),
                       partitioner.place(*new.model.declared))
  found = new.params_from(str(tmp_path), partitioner, fresh)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(fresh), strict=True):
    assert (one.shape, one.sharding) == (other.shape, other.sharding)
  found, fresh = jax.device_get((found, fresh))
  tokens = np.random.default_rng(0).integers(0, TEXT, (2, 12), dtype=np.int32)
  np.testing.assert_allclose(logits(new.model, found, tokens)[..., :TEXT], logits(old, params, tokens)[..., :TEXT],
                             atol=1e-5, rtol=1e-5)
  names = [name for name in found["vocabulary"] if found["vocabulary"][name].shape[:1] == (SIZE,)]
  assert len(names) == 1 + (not options.get("tie_embeddings", True)) + options.get("output_bias", False)
  for name in names:
    np.testing.assert_array_equal(found["vocabulary"][name][TEXT:], fresh["vocabulary"][name][TEXT:])
    np.testing.assert_array_equal(found["vocabulary"][name][:TEXT], params["vocabulary"][name][:TEXT])


def test_a_model_with_the_same_vocabulary_is_taken_as_it_is(tmp_path):
  new = experiment()
  params = write_run(tmp_path, new.model, VOCABULARY)
  new.to_train(str(tmp_path / "new"), False, str(tmp_path))
  found = new.params_from(str(tmp_path), Partitioner(data=1, num_devices=1), None)
  jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("own, options, message", [
    (seqio.ByteVocabulary(), {"adaptive_cutoffs": (100,)},
     r"TransformerConfig.adaptive_cutoffs = \(100,\) makes clusters of ids, to which media cannot be added: start"),
    (seqio.ByteVocabulary(3), {}, "toy_extended has the vocabulary MediaVocabulary.* was trained with ByteVocabulary"),
    (MediaVocabulary(MediaTokens(image="rgb", sizes=8)), {}, "toy_extended has .* was trained with MediaVocabulary"),
    (seqio.ByteVocabulary(), {"vocab_size": 300}, "TransformerConfig.vocab_size = 300 is smaller than the 539 ids"),
    (seqio.ByteVocabulary(), {"code_places": CodePlaces(258, 8)},
     "CodePlaces.text_size = 258 is not that of toy_extended, whose vocabulary has 259 ids of text: set it to these"),
    (seqio.ByteVocabulary(), {"code_places": CodePlaces(259)},
     "CodePlaces.num_sizes = 64 is not MediaTokens.sizes = 8: set it to that"),
], ids=["clusters", "other text", "other media", "no room", "other places", "other sizes"])
def test_what_cannot_be_extended(tmp_path, own, options, message):
  vocabularies.save(own, tmp_path)
  new = Experiment(language_model(**{"vocab_size": SIZE} | options), DatasetConfig(TASK, {"targets": 16}, 2))
  with pytest.raises(UserError, match=message) as caught:
    new.to_train(str(tmp_path / "new"), False, str(tmp_path))
  assert "\n" not in str(caught.value)


def test_so_does_a_run_of_t5x(tmp_path):
  config = reading.new_run([str(corpus.GIN_FILE)], [
      f"MIXTURE_OR_TASK_NAME='{TASK}'", f"TransformerConfig.vocab_size={SIZE}", f"train.init_from='{tmp_path}/text'"])
  old = LanguageModel(dataclasses.replace(config.experiment.model.config, vocab_size=TEXT))
  params = write_run(tmp_path / "text", old, seqio.ByteVocabulary())
  step, leaves, _ = crossing.Crossing(str(tmp_path / "new"), config).state_ahead_of_t5x()
  table = leaves["target"]["vocabulary"]["table"]
  assert step == 0 and table.shape[0] == SIZE
  np.testing.assert_array_equal(table[:TEXT], params["vocabulary"]["table"])


def test_a_run_of_media_starts_from_one_of_text_and_goes_on(tmp_path):
  """By commands: its first step has the text's parameters, and a run that stops half-way ends as if it had not."""
  text, run = corpus.write(tmp_path / "text"), tmp_path / "run"
  assert cli.main(corpus.flags(text, tmp_path / "text_run", TRAIN_STEPS=1, EVAL_PERIOD=None)) == 0
  extended = dict(MIXTURE_OR_TASK_NAME=TASK, TransformerConfig__vocab_size=SIZE, EVAL_PERIOD=None, CHECKPOINT_PERIOD=2,
                  train__init_from=str(tmp_path / "text_run"), CodePlaces__text_size=TEXT, CodePlaces__num_sizes=8,
                  TransformerConfig__code_places=corpus.Reference("@CodePlaces()"))
  assert cli.main(corpus.flags(text, tmp_path / "straight", TRAIN_STEPS=4, **extended)) == 0
  assert cli.main(corpus.flags(text, run, TRAIN_STEPS=2, **extended)) == 0
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=4"]) == 0
  losses = [[line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
             if line["split"] == "train"] for folder in (run, tmp_path / "straight")]
  assert losses[0] == losses[1] and len(losses[0]) == 4
  assert vocabularies.spec(vocabularies.load(run)) == vocabularies.spec(VOCABULARY)
  assert cli.main(["eval", f"--model_dir={run}"]) == 0
