"""Media and text of JSON-lines on this machine or in a bucket, as a seqio source: chunks of examples."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import random
import sys
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf

from gpt4x.data import objects
from gpt4x.data.bad_records import BadRecords
from gpt4x.data.held_out import hash_of, held_out, MANY, PERCENT
from gpt4x.data.named_files import stat_of
from gpt4x.data.objects import Stat
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import UserError
from gpt4x.media import records
from gpt4x.media.local_media import LocalMedia, ON_BAD_RECORD
from gpt4x.media.medium import MEDIA
from gpt4x.media.records import Example, File, Kind, Record

READER = 2  # Raise it whenever other examples are found in the same files.
CHUNK, CHUNK_OF_VIDEOS = 256, 16  # Examples that are made ready together.


@functools.lru_cache(maxsize=16)
def _read(files: tuple[Stat, ...], policy: str, max_records: int | None) -> tuple[tuple[Record, ...], ...]:
  """The records of each file."""
  bad, found = BadRecords(policy, ON_BAD_RECORD), list[tuple[Record, ...]]()
  for path, opened in objects.opened(files):
    try:
      with opened or open(path, "rb") as file:
        read = records.read(path, unpacked(file), bad)
        found.append(tuple(one for one, _ in zip(read, range(max_records or sys.maxsize))))
    except READ_ERRORS as error:
      raise UserError(f"cannot read {shown(path)} ({error}): mend it, or take it out of LocalMedia.files") from error
  count = sum(map(len, found))
  bad.report(count + bad.count, "records")
  if not count:
    raise UserError(f"there are no records in {len(files)} file(s), {shown(files[0][0])} the first: write lines such as"
                    f" {records.EXAMPLE}")
  return tuple(found)


class LocalMediaSource(seqio.DataSource):
  """Examples of one kind of task, with the splits train and validation.

  An element {"chunk"} is JSON for `media_codes` or `media_bytes`, which read the media of up to 256
  examples together: their paths, sizes and times, texts, and what `LocalMedia` says of reading.
  """

  def __init__(self, kind: Kind = "document", local: LocalMedia | None = None):
    """Takes the files to read; None means gin's `LocalMedia` at the time of reading."""
    super().__init__(splits=("train", "validation"))
    self._kind, self._local = kind, local

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    """The examples of a split; None for bytes, of which one file gives any number."""
    return None if self._kind in MEDIA else sum(map(len, self.examples(split)))

  def fingerprint_parts(self) -> dict[str, Any]:
    """Every file, those of media included, with its size and its time or hash; and what is read how."""
    local = self._local or LocalMedia()
    train, validation = local.find()
    settings = {name: value for name, value in dataclasses.asdict(local).items()
                if name not in ("files", "validation_files")}
    return {"files": [*train, *self._media(train, local)],
            "validation_files": [*validation, *self._media(validation, local)],
            "held_out": (PERCENT, MANY), "reader": (READER, self._kind), "settings": settings}

  def _media(self, files: tuple[Stat, ...], local: LocalMedia) -> list[Stat]:
    paths = {part.path for found in (_read(files, local.on_bad_record, local.max_records) if files else ())
             for record in found for part in record.parts if isinstance(part, File)}
    return [stat_of(path) for path in sorted(paths)]

  def examples(self, split: str, local: LocalMedia | None = None) -> list[list[Example]]:
    """The examples of a split, of each file."""
    local = local or self._local or LocalMedia()
    train, validation = local.find()
    files = validation if validation and split == "validation" else train
    found, kept_out = _read(files, local.on_bad_record, local.max_records), set[Any]()
    if not validation:
      out = held_out({records.group(record) for one in found for record in one})
      if split == "train":  # A record of training may have one too, behind its first medium.
        kept_out = {part for one in found for record in one if records.group(record) in out for part in record.parts}
      found = tuple(tuple(record for record in one if (records.group(record) in out) == (split == "validation"))
                    for one in found)
    bad = BadRecords(local.on_bad_record, ON_BAD_RECORD)
    made = [[example for record in one for example in self._examples(record, local, bad)
             if not (self._kind in MEDIA and example.parts[0] in kept_out)] for one in found]
    bad.report(sum(map(len, found)), f"records of {split}")
    if not any(made):
      raise UserError(f"LocalMedia.files = {local.files!r} leaves nothing for the split {split}: set"
                      " LocalMedia.validation_files, or name more records")
    return made

  def _examples(self, record: Record, local: LocalMedia, bad: BadRecords) -> list[Example]:
    by_chance = hash_of(record.place.rpartition("/")[2]) % 2 > 0
    text_first = local.order == "text_first" or local.order == "both" and by_chance
    try:
      return records.examples(record, self._kind, text_first)
    except ValueError as error:
      bad(f"{shown(record.place)}: {error}")
      return []

  def chunks(self, split: str, seed: int | None = None, local: LocalMedia | None = None) -> Iterator[str]:
    """The chunks of a split; a seed shuffles them."""
    local = local or self._local or LocalMedia()
    options = {name: getattr(local, name) for name in (
        "on_bad_record", "fps", "seconds", "stream", "size", "channels", "frames", "samples", "rate", "resample",
        "crop")}
    options |= {"train": True, "shift": local.shift, "flip": local.flip, "drop_condition": local.drop_condition} if (
        split == "train") else {"train": False, "shift": 0, "flip": False, "drop_condition": 0.0}
    size = CHUNK_OF_VIDEOS if self._kind == "video" else CHUNK
    groups = [one[start:start + size] for one in self.examples(split, local) for start in range(0, len(one), size)]
    if seed is not None:
      random.Random(seed).shuffle(groups)
    for group in groups:
      yield json.dumps({"options": options, "examples": [
          (example.place, example.num_inputs,
           [part if isinstance(part, str) else (part.medium, *stat_of(part.path)) for part in example.parts])
          for example in group]})

  def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, *, sequence_length: Mapping[str, int] | None = None,
                  use_cached: bool = False, num_epochs: int | None = 1) -> tf.data.Dataset:
    """See seqio.DataSource; seqio shards by dealing out examples."""
    local = self._local or LocalMedia()
    needed = {"image": ("size",), "audio": ("samples",), "video": ("size", "frames")}.get(self._kind, ())
    for name in needed:
      if getattr(local, name) is None:
        raise UserError(f"LocalMedia.{name} is not set, and local_{self._kind}_bytes needs it: its examples have one"
                        " length")
    self.examples(split, local)  # Raises UserErrors here, in the caller's thread.
    return tf.data.Dataset.from_generator(
        lambda: ({"chunk": chunk} for chunk in self.chunks(split, seed if shuffle else None, local)),
        output_signature={"chunk": tf.TensorSpec([], tf.string)})


def parsed(chunk: bytes) -> tuple[dict[str, Any], list[Any]]:
  """(options, examples) of a chunk: what LocalMedia says of reading, and (place, num_inputs, parts) of each."""
  found = json.loads(chunk)
  return found["options"], found["examples"]


def files_of(examples: Sequence[Any]) -> list[tuple[str, Stat]]:
  """(medium, stat) of each file of a chunk's examples, once."""
  return list(dict.fromkeys((medium, (path, size, time)) for *_, parts in examples for part in parts
                            if not isinstance(part, str) for medium, path, size, time in [part]))
