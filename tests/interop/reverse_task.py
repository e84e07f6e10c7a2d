"""A seqio task with inputs, targets and metrics, and its experiment: letters to be reversed."""

import contextlib

import numpy as np
import seqio
import tensorflow as tf

EXAMPLES = [("ab", "ba"), ("xyz", "zyx"), ("m", "m"), ("qr", "rq"), ("abc", "cba")]

GIN = """
import reverse_task_registered

TransformerConfig.vocab_size = 260
TransformerConfig.num_layers = 1
TransformerConfig.embed_dim = 8
TransformerConfig.num_heads = 2
TransformerConfig.mlp_dim = 16

MIXTURE_OR_TASK_NAME = 'reverse'
TASK_FEATURE_LENGTHS = {'inputs': 6, 'targets': 6}
FEATURE_CONVERTER = 'prefix_lm'
BATCH_SIZE = 4
TRAIN_STEPS = 6
EVAL_PERIOD = 6
CHECKPOINT_PERIOD = 6

OPTIMIZER = @adamw()
adamw.learning_rate = 1e-2
"""


def exact(targets, predictions):
  return {"exact": np.mean([a == b for a, b in zip(targets, predictions)])}


def mean_score(targets, scores):
  del targets
  return {"mean_score": np.mean(scores)}


def add(name: str) -> None:
  def dataset(split, shuffle_files, seed=None):
    inputs, targets = zip(*EXAMPLES * (10 if split == "train" else 1))
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})

  vocabulary = seqio.ByteVocabulary()
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
      output_features={"inputs": seqio.Feature(vocabulary, add_eos=False), "targets": seqio.Feature(vocabulary)},
      metric_fns=[exact, mean_score])


@contextlib.contextmanager
def registered(name: str = "reverse"):
  add(name)
  yield name
  seqio.TaskRegistry.remove(name)
