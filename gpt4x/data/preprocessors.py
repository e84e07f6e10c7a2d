"""seqio preprocessors."""

import functools

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf


def text_to_targets(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Maps documents {"text", ...} to {"targets"}, which are predicted whole."""
  return dataset.map(lambda document: {"targets": document["text"]}, num_parallel_calls=tf.data.AUTOTUNE)


# Leaves out seqio's copy of the untokenized text, which pre-training never reads.
tokenize = functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)
append_eos = seqio.preprocessors.append_eos
