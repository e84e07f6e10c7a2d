"""seqio preprocessors: media files to codes, and codes and texts to the targets, or inputs and targets, of a task.

A record, as `media_codes` makes it and as preprocessors of one's own may, has {"text" [n], "medium" [n], "shape"
[n, 4], "codes" [sum], "num_inputs" [], "drop_condition" []}: n parts in their order. A part of medium 0 is a text. That
of another is MEDIA[medium - 1], with codes of a shape, -1 behind its axes; medium 4 is the sound of the video before.
"""

from collections.abc import Sequence
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
from gpt4x.media.layout import Span
from gpt4x.media.local_media import ON_BAD_RECORD
from gpt4x.media.medium import MEDIA
from gpt4x.media.source import files_of, parsed
from gpt4x.media.vocabulary import shared_out

SOUND = len(MEDIA) + 1  # Beside a video.


def media_codes(dataset: tf.data.Dataset, output_features: Any) -> tf.data.Dataset:
  """Chunks of a LocalMediaSource as records, by the codecs of the vocabulary of targets."""
  vocabulary = output_features["targets"].vocabulary

  def encode(chunk: bytes) -> list[np.ndarray]:
    options, examples = parsed(chunk)
    found = reading.codes(files_of(examples), options, vocabulary)
    codes = {file: _checked(file, one, vocabulary) for file, one in found.items()}
    return _flat(examples, codes, options)

  return records(dataset.map(lambda one: tf.numpy_function(encode, [one["chunk"]], TYPES),
                             num_parallel_calls=2, deterministic=True))


def _checked(file: tuple[str, str], codes: Any, vocabulary: Any) -> Any:
  """The codes of a file, or what is wrong with it: the grammar may have no sizes for a picture."""
  pictures = codes[0] if isinstance(codes, tuple) else codes
  if isinstance(pictures, np.ndarray) and max(pictures.shape[-3:-1], default=0) > vocabulary.settings["sizes"]:
    try:
      vocabulary.layout.flatten(Span(file[0], pictures))
    except UserError as error:
      return UserError(f"{shown(file[1])}: {error}")
  return codes


# Records of several examples, laid out flat: strings and arrays of many lengths make no array.

TYPES = [tf.string, tf.int32, tf.int32, tf.int32, tf.int64, tf.int64, tf.int32, tf.float32]


def _flat(examples: Sequence[Any], codes: dict[tuple[str, str], Any], options: dict[str, Any]) -> list[np.ndarray]:
  bad, good = BadRecords(options["on_bad_record"], ON_BAD_RECORD), list[tuple[int, list[Any]]]()
  for place, num_inputs, parts in examples:
    found = [part if isinstance(part, str) else (part[0], codes[part[0], part[1]]) for part in parts]
    if wrong := [part[1] for part in found if not isinstance(part, str) and isinstance(part[1], UserError)]:
      bad(f"{shown(place)}: {wrong[0]}")
    else:
      laid_out = [_with_sound(part) for part in found]
      good.append((sum(map(len, laid_out[:num_inputs])), [one for some in laid_out for one in some]))
  bad.report(len(examples), "media")
  return flat_records(good, options["drop_condition"])


def _with_sound(part: Any) -> list[Any]:
  """A part, and behind a video its sound, which are (medium, codes)."""
  if isinstance(part, str):
    return [part]
  medium, (pictures, sound) = part[0], part[1] if isinstance(part[1], tuple) else (part[1], None)
  return [(MEDIA.index(medium) + 1, pictures)] + ([] if sound is None else [(SOUND, sound)])


def flat_records(found: Sequence[tuple[int, Sequence[Any]]], drop_condition: float) -> list[np.ndarray]:
  """What `records` takes, of (num_inputs, parts); a part is a text or (medium, codes)."""
  parts = [part for _, some in found for part in some]
  media = [(0, np.zeros(0, np.int32)) if isinstance(part, str) else part for part in parts]
  shapes = np.full((len(parts), 4), -1, np.int32)
  for shape, (medium, codes) in zip(shapes, media):
    shape[:codes.ndim if medium else 0] = codes.shape[:codes.ndim if medium else 0]
  ends = np.cumsum([0, *(codes.size for _, codes in media)])
  part_ends = np.cumsum([0, *(len(some) for _, some in found)])
  texts = [part.encode() if isinstance(part, str) else b"" for part in parts]
  return [np.array(texts, object) if texts else np.zeros(0, object),
          np.array([medium for medium, _ in media], np.int32), shapes,
          np.concatenate([np.zeros(0, np.int32), *(codes.ravel() for _, codes in media)]).astype(np.int32),
          part_ends.astype(np.int64), ends[part_ends].astype(np.int64),
          np.array([num_inputs for num_inputs, _ in found], np.int32), np.float32(drop_condition)]


def records(flat: tf.data.Dataset) -> tf.data.Dataset:
  """Records one by one, of what `flat_records` gives."""

  def one_by_one(texts, media, shapes, codes, part_ends, code_ends, num_inputs, drop_condition):
    texts, media, num_inputs = (tf.ensure_shape(one, [None]) for one in (texts, media, num_inputs))
    shapes, codes = tf.ensure_shape(shapes, [None, 4]), tf.ensure_shape(codes, [None])

    def record(i):
      parts = slice(part_ends[i], part_ends[i + 1])
      return {"text": texts[parts], "medium": media[parts], "shape": shapes[parts],
              "codes": codes[code_ends[i]:code_ends[i + 1]], "num_inputs": num_inputs[i],
              "drop_condition": tf.ensure_shape(drop_condition, [])}

    return tf.data.Dataset.range(tf.size(num_inputs, tf.int64)).map(record)

  return flat.flat_map(one_by_one)


# Records to ids.


def targets(dataset: tf.data.Dataset, output_features: Any) -> tf.data.Dataset:
  """Records to {"targets"}: all parts."""
  return _to_ids(dataset, output_features).map(
      lambda one: {"targets": tf.concat([one["inputs"], one["targets"]], 0)}, num_parallel_calls=tf.data.AUTOTUNE)


def inputs_and_targets(dataset: tf.data.Dataset, output_features: Any) -> tf.data.Dataset:
  """Records to {"inputs", "targets"}: the first `num_inputs` parts, and the others."""
  return _to_ids(dataset, output_features)


def _to_ids(dataset: tf.data.Dataset, output_features: Any) -> tf.data.Dataset:
  vocabulary = output_features["targets"].vocabulary

  def encode(texts, media, shapes, codes, num_inputs):
    parts = spans(texts, media, shapes, codes)
    # A video and its sound are one part by now.
    count = int(num_inputs) - int((media[:num_inputs] == SOUND).sum())
    return [np.asarray(vocabulary.encode_parts(some), np.int32).reshape(-1) for some in (parts[:count], parts[count:])]

  def ids(record):
    found = tf.numpy_function(encode, [record[name] for name in ("text", "medium", "shape", "codes", "num_inputs")],
                              [tf.int32, tf.int32])
    inputs, targets = (tf.ensure_shape(one, [None]) for one in found)
    return {"inputs": inputs, "targets": targets, "drop_condition": record["drop_condition"]}

  return dataset.map(ids, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def spans(texts: np.ndarray, media: np.ndarray, shapes: np.ndarray, codes: np.ndarray) -> list[Any]:
  """The parts of a record: texts, and media as `layout.Span`."""
  parts, at = list[Any](), 0
  for text, medium, shape in zip(texts, media, shapes):
    if not medium:
      parts.append(text.decode())
      continue
    shape = shape[shape >= 0]
    size = int(np.prod(shape))
    array, at = codes[at:at + size].reshape(shape), at + size
    if medium == SOUND:
      parts[-1] = Span("video", parts[-1].codes, shared_out(array, len(parts[-1].codes)))
    else:
      parts.append(Span(MEDIA[medium - 1], array))
  return parts


@seqio.map_over_dataset(num_seeds=1)
def drop_condition(example, seed):
  """Takes the inputs from a share of the examples, for guidance: by seqio's seeds, so that a run drops the same again.

  Each has its own probability, which a source sets to 0 outside training.
  """
  kept = tf.random.stateless_uniform([], seed) >= example["drop_condition"]
  return {**example, "inputs": example["inputs"][:tf.where(kept, tf.size(example["inputs"]), 0)]}


append_eos = seqio.preprocessors.append_eos
