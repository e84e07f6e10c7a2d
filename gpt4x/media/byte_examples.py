"""seqio preprocessors for the training of codecs: media files as bytes, all of one length."""

from typing import Any

import numpy as np

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf

from gpt4x.data.bad_records import BadRecords
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media import reading
from gpt4x.media.local_media import ON_BAD_RECORD
from gpt4x.media.source import files_of, parsed


def media_bytes(dataset: tf.data.Dataset, medium: str) -> tf.data.Dataset:
  """Chunks of a LocalMediaSource as {"targets"}: pixels, or the two bytes of each sample, as a ByteVocabulary has them.

  All have one length. A longer sound or video gives several, one behind another.
  """

  def read(chunk: bytes) -> list[np.ndarray]:
    options, examples = parsed(chunk)
    bad, good = BadRecords(options["on_bad_record"], ON_BAD_RECORD), list[np.ndarray]()
    files = [stat for _, stat in files_of(examples)]
    found = dict(zip(files, reading.raw(medium, files, options)))
    for place, _, ((_, *stat),) in examples:
      one = found[tuple(stat)]
      if isinstance(one, UserError):
        bad(f"{shown(place)}: {one}")
      else:
        good.append(one)
    bad.report(len(examples), "media")
    shapes = np.array([(*[1] * (4 - one.ndim), *one.shape) for one in good], np.int32).reshape(-1, 4)
    ends = np.cumsum([0, *(one.size for one in good)]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, _BYTES[medium]), *(one.ravel() for one in good)]).astype(_BYTES[medium])
    return [flat, shapes, ends, *_numbers(options, medium)]

  def one_by_one(flat, shapes, ends, window, moves):
    flat, shapes = tf.ensure_shape(flat, [None]), tf.ensure_shape(shapes, [None, 4])
    return tf.data.Dataset.range(tf.shape(shapes, tf.int64)[0]).map(lambda i: {
        "medium": tf.reshape(flat[ends[i]:ends[i + 1]], shapes[i]), "window": tf.ensure_shape(window, [3]),
        "moves": tf.ensure_shape(moves, [3])})

  types = [_BYTES[medium], tf.int32, tf.int64, tf.int32, tf.int32]
  flat = dataset.map(lambda one: tf.numpy_function(read, [one["chunk"]], types), num_parallel_calls=2,
                     deterministic=True)
  windows = (sound_windows if medium == "audio" else picture_windows)(flat.flat_map(one_by_one))
  return windows.flat_map(tf.data.Dataset.from_tensor_slices)


_BYTES = {"image": np.uint8, "audio": np.uint16, "video": np.uint8}


def _numbers(options: dict[str, Any], medium: str) -> list[np.ndarray]:
  """(length, height, width) of an example, and (train, shift, flip)."""
  length = {"image": 1, "audio": options["samples"], "video": options["frames"]}[medium]
  moves = [options[name] for name in ("train", "shift", "flip")]
  return [np.array([length, *(options["size"] or (0, 0))], np.int32), np.array(moves, np.int32)]


def _random(seed, most):
  return tf.random.stateless_uniform([], seed, maxval=most + 1, dtype=tf.int32)


def _parts_of(array, length, train, seed):
  """[n, length, ...]: an array [T, ...] cut into n parts, from a random place in training, else so as to be central."""
  count = tf.maximum(tf.shape(array)[0] // length, 1)
  slack = tf.shape(array)[0] - count * length
  start = tf.where(train, _random(seed, slack), slack // 2)
  return tf.reshape(array[start:start + count * length], tf.concat([[count, length], tf.shape(array)[1:]], 0))


@seqio.map_over_dataset(num_seeds=6)
def picture_windows(example, seeds):
  """{"targets" [n, length * height * width * channels]} of pixels [T, H, W, C]."""
  pixels, (length, height, width), (train, shift, flip) = example["medium"], *(
      tf.unstack(example[name]) for name in ("window", "moves"))
  train = train > 0
  missing = tf.maximum(length - tf.shape(pixels)[0], 0)
  pixels = tf.concat([pixels, tf.repeat(pixels[-1:], missing, 0)], 0)  # A short video shows its last frame on.
  for axis, size, cut, move in ((1, height, seeds[0], seeds[1]), (2, width, seeds[2], seeds[3])):
    room = tf.shape(pixels)[axis] - size
    start = tf.where(train, _random(cut, room), room // 2)
    places = start + tf.range(size) + tf.where(train, _random(move, 2 * shift) - shift, 0)
    pixels = tf.gather(pixels, tf.clip_by_value(places, 0, tf.shape(pixels)[axis] - 1), axis=axis)
  mirrored = train & (flip > 0) & (_random(seeds[4], 1) > 0)
  pixels = tf.where(mirrored, tf.reverse(pixels, [2]), pixels)
  return {"targets": _as_bytes(_parts_of(pixels, length, train, seeds[5]))}


@seqio.map_over_dataset(num_seeds=2)
def sound_windows(example, seeds):
  """{"targets" [n, 2 * length]} of samples [1, 1, 1, T], raised by 32768: the high byte of each, then the low."""
  samples, (length, _, _), (train, _, _) = tf.reshape(example["medium"], [-1]), *(
      tf.unstack(example[name]) for name in ("window", "moves"))
  train = train > 0
  missing = tf.maximum(length - tf.size(samples), 0)
  before = tf.where(train, _random(seeds[0], missing), 0)  # Silence around a short one.
  samples = tf.pad(tf.cast(samples, tf.int32), [[before, missing - before]], constant_values=32768)
  parts = _parts_of(samples, length, train, seeds[1])
  return {"targets": _as_bytes(tf.stack([parts // 256, parts % 256], -1))}


def _as_bytes(parts):
  """Ids of a ByteVocabulary, whose first three are none of bytes."""
  return tf.reshape(tf.cast(parts, tf.int32) + 3, [tf.shape(parts)[0], -1])
