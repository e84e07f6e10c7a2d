"""The files of an input, and the shards that they are dealt to."""

from collections.abc import Sequence
import dataclasses
import os
import zlib

from gpt4x import storage
from gpt4x.data import named_files

_SAMPLE = 1 << 20  # Bytes at each end of a file that tell it from others of its size.


@dataclasses.dataclass(frozen=True)
class File:
  """A file of the input.

  Attributes:
    path: where it is read.
    name: the same from the folder that all files share, so that a copy of the input elsewhere gives the same output.
    size: in bytes.
    sample: a CRC-32 of its first and last mebibyte.
  """

  path: str
  name: str
  size: int
  sample: int

  @property
  def folder(self) -> str:
    """Where the name counts from."""
    return self.path.removesuffix(self.name)


Shard = tuple[File, ...]


def find(patterns: Sequence[str], shard_bytes: int = 1 << 24, flag: str = "--input") -> tuple[Shard, ...]:
  """The files that the globs of a flag match, in the order of their names, dealt to shards of about `shard_bytes`."""
  stats = sorted({path: stat for pattern in patterns for path, stat in named_files.match(flag, pattern).items()
                  }.values())
  paths = [stat[0] for stat in stats]
  root = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(paths)
  shards, size = list[list[File]](), 0
  for path, stored, _ in stats:
    if not shards or size + stored > shard_bytes:
      shards, size = [*shards, []], 0
    shards[-1].append(File(path, os.path.relpath(path, root), stored, _sample(path, stored)))
    size += stored
  return tuple(tuple(shard) for shard in shards)


def _sample(path: str, size: int) -> int:
  with storage.errors(path), storage.path(path).open("rb") as file:
    found = zlib.crc32(file.read(_SAMPLE))
    if size > _SAMPLE:
      file.seek(max(_SAMPLE, size - _SAMPLE))
      found = zlib.crc32(file.read(_SAMPLE), found)
  return found
