"""Tasks of tiny pictures and sounds in the real vocabulary of media, and the smallest models of it."""

from collections.abc import Sequence
import contextlib

import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data.dataset import DatasetConfig
from gpt4x.experiment import Experiment
from gpt4x.media.medium import Audio, Image
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel


class _Text(seqio.ByteVocabulary):
  """Bytes, for parts; media are question marks."""

  def encode_parts(self, parts):
    return np.array(self.encode("".join(part if isinstance(part, str) else "?" for part in parts)), np.int32)


TEXT = _Text()
VOCABULARY = MediaVocabulary(MediaTokens(
    text="bytes", image="grey", audio="pcm:8000", sizes=4, loss_weights={"image": 0.5, "structure": 0.25}))
SIDE, IMAGE_TOKENS = 4, 24  # Begin, two sizes, rows of 4 codes and an end, end.


def image(label: str, seed: int) -> Image:
  """Bright on one side: on the right or below, by its label."""
  pixels = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 1)).astype(np.uint8)
  half = (slice(None), slice(2, None)) if label == "right" else (slice(2, None), slice(None))
  pixels[half] += np.uint8(150)
  return Image(pixels)


def sound(length: int, seed: int) -> Audio:
  return Audio(np.random.default_rng(seed).integers(-9000, 9000, length).astype(np.int16), 8000)


def label_of(number: int) -> str:
  return ("right", "below")[number % 2]


Pairs = Sequence[tuple[Sequence, Sequence]]  # Parts of the inputs, and of the targets.


def to_text(count: int, first: int = 0) -> Pairs:
  return [([image(label_of(i), i), "?"], [label_of(i)]) for i in range(first, first + count)]


def to_image(count: int, first: int = 0) -> Pairs:
  return [([label_of(i)], [image(label_of(i), i)]) for i in range(first, first + count)]


@contextlib.contextmanager
def registered(name: str, pairs: Pairs, train: Pairs | None = None, vocabulary=VOCABULARY, inputs: bool = True,
               metric_fns: Sequence = ()):
  """A task of these pairs; without `inputs` their parts together are the targets."""
  eos = [vocabulary.eos_id]

  def source(split, shuffle_files, seed=None):
    del shuffle_files, seed
    for given, wanted in (train or pairs) if split == "train" else pairs:
      if inputs:
        yield {"inputs": vocabulary.encode_parts(given), "targets": np.append(vocabulary.encode_parts(wanted), eos)}
      else:
        yield {"targets": np.append(vocabulary.encode_parts([*given, *wanted]), eos)}

  features = ["inputs", "targets"] if inputs else ["targets"]
  dataset = lambda split, shuffle_files, seed=None: tf.data.Dataset.from_generator(
      lambda: source(split, shuffle_files), output_signature={
          feature: tf.TensorSpec([None], tf.int32) for feature in features})
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(dataset, splits=("train", "validation")), preprocessors=[],
      output_features={feature: seqio.Feature(vocabulary, add_eos=feature == "targets") for feature in features},
      metric_fns=list(metric_fns))
  try:
    yield name
  finally:
    seqio.TaskRegistry.remove(name)


CONFIG = TransformerConfig(vocab_size=VOCABULARY.vocab_size, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8,
                           memory_length=8, norm_position="pre", dtype="float32")
MODEL = LanguageModel(CONFIG)


def experiment(name: str, converter: str = "prefix_lm", lengths=None, batch_size: int = 4, **options) -> Experiment:
  lengths = lengths or ({"inputs": 28, "targets": 28} if converter == "prefix_lm" else {"targets": 34})
  return Experiment(MODEL, DatasetConfig(name, lengths, batch_size, converter, **options))
