"""Public data sets of images, sounds and videos, by tensorflow-datasets, as examples of media and text."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

import numpy as np

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from gpt4x.data import public_sets
from gpt4x.media.medium import Audio, Image, MEDIA, Medium, Video
from gpt4x.media.preprocessors import flat_records, records, SOUND, TYPES

DROP_CONDITION = 0.1  # Of training examples that make a medium, for guidance.
TOGETHER = 32  # Examples whose media are encoded at once.


@dataclasses.dataclass(frozen=True)
class PublicSet:
  """A data set of tfds, and what of its examples counts.

  Attributes:
    name: as tfds has it, with its version.
    splits: those of a task, and what stands for them in tfds.
    medium: one of MEDIA.
    array: the feature that holds it.
    texts: a feature with a text, a label, or a sequence of texts ("captions/text"), each of which makes an example.
    questions: a sequence of as many questions, whose answers the texts are.
    rate: samples or frames a second, of which tfds keeps nothing.
  """
  name: str
  splits: Mapping[str, str]
  medium: Literal["image", "audio", "video"]
  array: str
  texts: str
  questions: str | None = None
  rate: float = 0.0

  def read(self, array: np.ndarray) -> Medium:
    """The medium that tfds has read."""
    if self.medium == "image":
      return Image(array)
    if self.medium == "audio":
      return Audio(np.clip(array, -32768, 32767).astype(np.int16), int(self.rate))
    return Video(array, self.rate)


class PublicSource(public_sets.PublicSource):
  """Elements {"array", "texts", "questions", "drop_condition"}; the first three are serialized, of any shape."""

  def __init__(self, public: PublicSet):
    super().__init__(public.name, public.splits)
    self._public = public

  def get_dataset(self, split: str | None = None, shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, **options: Any) -> tf.data.Dataset:
    """See seqio.DataSource."""
    public = self._public
    dataset = super().get_dataset(split, shuffle, seed, shard_info, **options)
    names = getattr(dict(self.tfds_dataset.info.features.items()).get(public.texts), "names", None)

    def texts(example: Any, path: str) -> tf.Tensor:
      for name in path.split("/"):
        example = example[name]
      return tf.reshape(tf.constant(names)[example] if names else example, [-1])

    def element(example):
      said = texts(example, public.texts)
      asked = texts(example, public.questions) if public.questions else tf.zeros_like(said)
      found = {"array": example[public.array], "texts": said, "questions": asked}
      drop = DROP_CONDITION if split == "train" else 0.0
      return {name: tf.io.serialize_tensor(value) for name, value in found.items()} | {"drop_condition": drop}

    return dataset.map(element, num_parallel_calls=tf.data.AUTOTUNE)


def array_codes(dataset: tf.data.Dataset, output_features: Any, public: PublicSet, text_first: bool) -> tf.data.Dataset:
  """Elements of a PublicSource as records: the medium and what is asked, then the text; or the text first."""
  vocabulary = output_features["targets"].vocabulary

  def encode(arrays: np.ndarray, texts: np.ndarray, questions: np.ndarray, drops: np.ndarray) -> list[np.ndarray]:
    media = [public.read(_parsed(one)) for one in arrays]
    found = list[tuple[int, list[Any]]]()
    for span, said, asked in zip(vocabulary.encode_media(media), texts, questions):
      codes = [(MEDIA.index(public.medium) + 1, span.codes)]
      codes += [] if span.sound is None else [(SOUND, np.concatenate(span.sound))]
      for text, question in zip(_parsed(said), _parsed(asked)):
        before: list[Any] = [text.decode()] if text_first else [*codes, *([question.decode()] if question else [])]
        found.append((len(before), [*before, *(codes if text_first else [text.decode()])]))
    return flat_records(found, float(drops[0]))

  names = "array", "texts", "questions", "drop_condition"
  return records(dataset.batch(TOGETHER).map(
      lambda group: tf.numpy_function(encode, [group[name] for name in names], TYPES)))


def _parsed(serialized: bytes) -> np.ndarray:
  """The array of a serialized tensor."""
  return tf.make_ndarray(tensor_pb2.TensorProto.FromString(serialized))
