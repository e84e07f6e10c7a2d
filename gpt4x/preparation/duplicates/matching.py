"""Equal keys among the documents of all shards, the pairs that they suggest, and which of these decide."""

import array
from collections.abc import Iterator, Sequence
import pathlib

import numpy as np

from gpt4x.preparation.duplicates.join import NearJoin
from gpt4x.preparation.shard_files import ENTRY, GROUPS, Groups, MATCH, write_array, write_groups

PART_ENTRIES = 1 << 21  # Keys that are compared at a time: about 100 MiB.
_ALL_PAIRS = 32  # Of more documents with one key, each is compared with the first and with so many that follow it.


def parts(keys: Sequence[pathlib.Path]) -> list[tuple[int, int]]:
  """Ranges of groups of keys with about PART_ENTRIES of all shards in each."""
  sizes = np.zeros(GROUPS, np.int64)
  for path in keys:
    sizes += Groups(path).sizes(ENTRY)
  found, start, total = list[tuple[int, int]](), 0, 0
  for group, size in enumerate(sizes.tolist()):
    if total and total + size > PART_ENTRIES:
      found.append((start, group))
      start, total = group, 0
    total += size
  return [*found, (start, GROUPS)]


def write_matches(keys: Sequence[pathlib.Path], part: tuple[int, int], output: pathlib.Path, pairs: bool) -> None:
  """MATCHes of one part, by shard: each later document with the first, or pairs by the shard of the earlier one."""
  entries, shards = _entries(keys, part)
  starts = np.flatnonzero(np.concatenate([[True], entries["key"][1:] != entries["key"][:-1]])[:len(entries)])
  group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(entries)]))
  found = [_pairs(entries, shards, starts[group], group)] if pairs else [
      _matches(entries, shards, np.flatnonzero(starts[group] != np.arange(len(entries))), starts[group])]
  _write_by_shard(np.concatenate([np.zeros(0, _WITH_SHARD), *found]), len(keys), output)


def write_alike(join: NearJoin, shard: int, pairs: Sequence[pathlib.Path], features: Sequence[pathlib.Path],
                output: pathlib.Path) -> None:
  """The pairs that are alike, of those whose earlier document is in one shard: MATCHes of it with later ones."""
  suggested = np.concatenate([Groups(path).read(shard, shard + 1, MATCH) for path in pairs])
  suggested = np.unique(suggested[["shard", "row", "other"]])  # By the later one's shard, so that few files are open.
  own, alike = Groups(features[shard]), list[tuple]()
  later, of_shard = own, shard
  for other_shard, row, other in suggested.tolist():
    if other_shard != of_shard:
      later, of_shard = Groups(features[other_shard]), other_shard
    value = join.similarity(*(one.read(at, at + 1, np.dtype("<u8")) for one, at in ((own, row), (later, other))))
    if value >= join.threshold:
      alike.append((row, 0, other_shard, other, 0, value))
  write_groups(output, [np.array(alike, MATCH)])


def write_chosen(alike: Sequence[pathlib.Path], output: pathlib.Path) -> None:
  """MATCHes, by shard, of what is dropped: each document that is alike an earlier one that is kept, with that."""
  found = [Groups(path).read(0, 1, MATCH) for path in alike]
  earlier = np.repeat(np.arange(len(found)), [len(one) for one in found])
  pairs = np.concatenate([np.zeros(0, MATCH), *found])
  number = lambda shard, row: shard.astype(np.uint64) << np.uint64(32) | row.astype(np.uint64)
  first, last = number(earlier, pairs["row"]), number(pairs["shard"], pairs["other"])
  dropped, chosen = set[int](), array.array("q")
  order = np.lexsort([first, last])
  for place in order:  # One at a time: as Python's numbers, all of them would be large.
    if (one := int(last[place])) not in dropped and int(first[place]) not in dropped:
      dropped.add(one)
      chosen.append(place)
  at = np.array(chosen, np.int64)
  matches = np.zeros(len(at), _WITH_SHARD)
  matches["of_shard"], matches["row"] = pairs["shard"][at], pairs["other"][at]
  matches["shard"], matches["other"], matches["value"] = earlier[at], pairs["row"][at], pairs["value"][at]
  _write_by_shard(matches, len(alike), output)


_WITH_SHARD = np.dtype([("of_shard", "<u4"), *MATCH.descr])


def _entries(keys: Sequence[pathlib.Path], part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """The entries of all shards with keys of a part, and their shards; by key, and then in the order of documents."""
  read = [Groups(path).read(*part, ENTRY) for path in keys]
  shards = np.repeat(np.arange(len(read), dtype=np.uint32), [len(one) for one in read])
  entries = np.concatenate([np.zeros(0, ENTRY), *read])
  order = np.argsort(entries["key"], kind="stable")
  return entries[order], shards[order]


def _matches(entries: np.ndarray, shards: np.ndarray, later: np.ndarray, first: np.ndarray) -> np.ndarray:
  found, first = np.zeros(len(later), _WITH_SHARD), first[later]
  found["of_shard"], found["row"], found["place"] = shards[later], entries["row"][later], entries["place"][later]
  found["shard"], found["other"], found["other_place"] = shards[first], entries["row"][first], entries["place"][first]
  found["value"] = 1
  return found


def _pairs(entries: np.ndarray, shards: np.ndarray, first: np.ndarray, group: np.ndarray) -> np.ndarray:
  """(earlier, later) with one key: all of a small group."""
  earlier, later = [first], [np.arange(len(entries))]
  for distance in range(1, _ALL_PAIRS):
    at = np.flatnonzero(group[distance:] == group[:-distance])
    if not len(at):
      break
    earlier, later = [*earlier, at], [*later, at + distance]
  one, other = np.concatenate(earlier), np.concatenate(later)
  found = np.zeros(len(one), _WITH_SHARD)
  found["of_shard"], found["row"], found["shard"], found["other"] = (
      shards[one], entries["row"][one], shards[other], entries["row"][other])
  return np.unique(found[(found["of_shard"] != found["shard"]) | (found["row"] != found["other"])])


def _write_by_shard(matches: np.ndarray, shards: int, output: pathlib.Path) -> None:
  matches = matches[np.argsort(matches["of_shard"], kind="stable")]
  starts = np.searchsorted(matches["of_shard"], np.arange(shards))
  write_array(output, matches[list(MATCH.names or ())].astype(MATCH), [*starts, len(matches)])


def matches_of(paths: Sequence[pathlib.Path], shard: int) -> Iterator[tuple]:
  """(row, place, shard, other, other_place, value) of the documents of a shard, in order."""
  found = np.concatenate([np.zeros(0, MATCH), *(Groups(path).read(shard, shard + 1, MATCH) for path in paths)])
  yield from found[np.lexsort([found["place"], found["row"]])].tolist()
