"""RecordSource: records of JSON as a seqio source, which subclasses read from wherever they are."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
import random

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf

_CHUNK = 256  # Records that are given to tf.data together, which takes nearly a millisecond for each `yield`.


class RecordSource(seqio.DataSource, abc.ABC):
  """Records {"record", "place"}: JSON, and where it stands, for messages."""

  @abc.abstractmethod
  def records(self, split: str, seed: int | None = None) -> Iterable[tuple[str, str]]:
    """(place, JSON) of each record of a split, all of them checked; the seed is for what differs between epochs."""

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, *, sequence_length: Mapping[str, int] | None = None,
                  use_cached: bool = False, num_epochs: int | None = 1) -> tf.data.Dataset:
    """See seqio.DataSource; seqio shards by dealing out examples."""
    records = list(self.records(split, seed))  # Raises UserErrors here, in the caller's thread.
    if shuffle:
      random.Random(seed).shuffle(records)
    strings = tf.TensorSpec([None], tf.string)

    def chunks() -> Iterator[dict[str, Sequence[str]]]:
      for start in range(0, len(records), _CHUNK):
        places, lines = zip(*records[start:start + _CHUNK])
        yield {"place": places, "record": lines}

    return tf.data.Dataset.from_generator(chunks, output_signature={"place": strings, "record": strings}).unbatch()
