"""The tasks of public sets, on examples that tfds makes up: their features are real, their pixels are not."""

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from gpt4x.errors import UserError
from gpt4x.media.layout import Layout, Span, Tokens
from gpt4x.media.medium import Audio, Image, Video
from gpt4x.media.preprocessors import inputs_and_targets
from gpt4x.media.public import array_codes, PublicSet, PublicSource
import gpt4x.tasks  # noqa: F401  Finds the next.
from gpt4x.tasks.public_media import SETS

CELLS = {"image": (1, 1, 1), "audio": (1, 1), "video": (1, 1, 1, 1)}


class Vocabulary(seqio.ByteVocabulary):
  """A medium has one code, which is 3; what was to be encoded is kept."""

  def __init__(self):
    super().__init__()
    self.layout = Layout(self.vocab_size, 1, Tokens((4,)), Tokens((4,)), Tokens((4,)))
    self.media = []

  def encode_media(self, media):
    self.media += media
    return [Span(one.medium, np.full(CELLS[one.medium], 3)) for one in media]

  def encode_parts(self, some):
    return np.concatenate([np.zeros(0, int), *(self.encode(one) if isinstance(one, str) else self.layout.flatten(one)
                                               for one in some)])


def fake(features, size):
  """An example for features of tfds, with texts that tell their place."""

  def made(feature, name):
    if isinstance(feature, tfds.features.FeaturesDict):
      return {key: made(one, key) for key, one in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
      inner = feature.feature
      return {key: np.stack([np.asarray(made(one, f"{key} {i}")) for i in range(2)])
              for key, one in inner.items()} if hasattr(inner, "items") else np.zeros((0, *inner.shape), inner.np_dtype)
    if isinstance(feature, tfds.features.Text) or np.dtype(feature.np_dtype).kind == "O":
      return np.array(name, object)
    shape = [length or size for length in feature.shape]
    return np.full(shape, 1, feature.np_dtype)

  return made(features, "")


@pytest.fixture(name="tfds_made_up")
def _tfds_made_up(tmp_path):
  """All of tfds's sets, each with two examples of small arrays."""
  import tensorflow as tf

  def as_dataset(self, *args, **kwargs):
    del args, kwargs
    examples = [fake(self.info.features, size) for size in (2, 3)]
    return tf.data.Dataset.from_generator(
        lambda: examples, output_signature=tf.nest.map_structure(
            lambda one: tf.TensorSpec([None] * np.ndim(one), tf.as_dtype(np.asarray(one).dtype)), examples[0]))

  with tfds.testing.mock_data(as_dataset_fn=as_dataset, data_dir=str(tmp_path)):
    yield


@pytest.mark.parametrize("name", SETS)
def test_both_directions(name, tfds_made_up):
  public, vocabulary = SETS[name], Vocabulary()
  features = {"targets": seqio.Feature(vocabulary)}
  found = {}
  for text_first in (False, True):
    coded = array_codes(PublicSource(public).get_dataset("train", shuffle=False), features, public, text_first)
    read = inputs_and_targets(coded, features)
    found[text_first] = [(one["inputs"], one["targets"]) for one in read.as_numpy_iterator()]
    assert all(one["drop_condition"] == np.float32(0.1) for one in read.as_numpy_iterator())
  media = {"image": Image, "audio": Audio, "video": Video}[public.medium]
  assert vocabulary.media and all(isinstance(one, media) for one in vocabulary.media)
  assert len(found[False]) == len(found[True]) == (4 if "/" in public.texts else 2)
  for inputs, targets in found[False]:
    (span, *question), text = vocabulary.layout.parse(inputs), vocabulary.decode(targets.tolist())
    assert isinstance(span, Span) and span.medium == public.medium and span.codes.ravel().tolist() == [3]
    assert text and bool(question) == bool(public.questions)
    if question:
      assert vocabulary.decode(question[0].tolist()).replace("question", "answer") == text
  for (_, targets), (inputs, _) in zip(found[False], found[True]):
    assert targets.tolist() == inputs.tolist()


def test_what_is_read_is_what_tfds_gives():
  image = SETS["imagenet"].read(np.ones((2, 3, 3), np.uint8))
  assert isinstance(image, Image) and image.pixels.dtype == np.uint8
  sound = SETS["spoken_digit"].read(np.array([5, 40_000, -40_000], np.int64))
  assert sound.samples.tolist() == [5, 32767, -32768] and sound.samples.dtype == np.int16 and sound.rate == 8000
  video = SETS["ucf101"].read(np.ones((2, 4, 4, 3), np.uint8))
  assert video.frames.shape == (2, 4, 4, 3) and video.fps == 25


def test_labels_are_words(tfds_made_up):
  vocabulary = Vocabulary()
  features = {"targets": seqio.Feature(vocabulary)}
  coded = array_codes(PublicSource(SETS["speech_commands"]).get_dataset("train", shuffle=False), features,
                      SETS["speech_commands"], False)
  names = tfds.builder("speech_commands").info.features["label"].names
  assert {one["text"][-1].decode() for one in coded.as_numpy_iterator()} == {names[1]}


def test_evaluation_drops_nothing(tfds_made_up):
  features = {"targets": seqio.Feature(Vocabulary())}
  public = SETS["spoken_digit"]
  coded = array_codes(PublicSource(public).get_dataset("validation", shuffle=False), features, public, True)
  assert [one["drop_condition"] for one in coded.as_numpy_iterator()] == [0, 0]


@pytest.mark.parametrize("name", SETS)
def test_tasks_are_registered(name):
  questions = SETS[name].questions
  for task, features in ((name, {"targets"}), (f"{name}_to_text", {"inputs", "targets"}),
                         (f"text_to_{name}", {"inputs", "targets"})):
    if task == f"text_to_{name}" and questions:
      assert task not in seqio.TaskRegistry.names()
      continue
    found = seqio.TaskRegistry.get(task)
    assert found.output_features.keys() == features and bool(found.metric_fns) == task.endswith("_to_text")


def test_splits_are_those_of_tfds():
  """Where its builder names them before anything is read."""
  assert tfds.builder_cls("imagenet2012") and tfds.builder_cls("ucf101")
  for public in SETS.values():
    name, version = public.name.split(":")
    cls = tfds.builder_cls(name.partition("/")[0])
    configs = [one for one in cls.BUILDER_CONFIGS if one.name == name.partition("/")[2]] or cls.BUILDER_CONFIGS[:1]
    assert version in {str(cls.VERSION), *(str(one.version) for one in configs)}


def test_what_tfds_cannot_prepare_is_one_line(monkeypatch):
  source = PublicSource(PublicSet("imagenet2012:5.1.0", {"train": "train"}, "image", "image", "label"))

  def prepare(self):
    raise AssertionError("Manual directory x does not exist.\nCreate it and put the archive there.")

  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
  with pytest.raises(UserError, match="cannot prepare imagenet2012:5.1.0 .Manual directory x does not exist. Create it"
                                      " .*catalog/imagenet2012, and run where the network is") as error:
    source.get_dataset("train")
  assert "\n" not in str(error.value)
