"""seqio tasks of small media as bytes, for codecs to be trained on."""

import numpy as np
import seqio
import tensorflow as tf

SHAPES = {"image": (4, 6, 1), "audio": (40, 2), "video": (4, 4, 4, 1)}
COUNTS = {"train": 20, "validation": 11}


def rows(medium: str, split: str) -> np.ndarray:
  """Bytes of smooth media, a row each."""
  draw = np.random.default_rng(sum(map(ord, medium + split)))
  shape = SHAPES[medium]
  steps = np.cumsum(draw.normal(size=(COUNTS[split], int(np.prod(shape)))), -1)
  return (127 + 127 * np.sin(steps / 3)).astype(np.int32)


def _add(medium: str) -> None:
  def dataset(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"targets": (rows(medium, split) + 3).astype(np.int32)})

  seqio.TaskRegistry.add(
      f"tiny_{medium}_bytes", source=seqio.FunctionDataSource(dataset, splits=tuple(COUNTS)), preprocessors=[],
      output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)})


for name in SHAPES:
  if f"tiny_{name}_bytes" not in seqio.TaskRegistry.names():
    _add(name)
