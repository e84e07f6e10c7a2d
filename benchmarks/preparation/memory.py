"""The memory of many documents.

  memory_mib  the most that a process takes at comparing the signatures of 10 million documents, less 24 bytes for each;
              the documents are numbers, of which one in ten is like an earlier one

    python -m benchmarks.preparation.memory --data=DIR [--dry_run]
"""

from collections.abc import Iterator
import pathlib
import resource
import tempfile

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.preparation import scripts

MILLIONS = 10


def rows(_: scripts.Given) -> Iterator[Row]:
  yield Row("preparation/memory_mib", harness.in_a_process(memory_of_millions, MILLIONS), "MiB", goal="value <= 512")


def memory_of_millions(millions: int) -> float:
  """MiB at the peak over what a process has at first and 24 bytes a document, of comparing generated signatures."""
  from gpt4x.preparation import shard_files
  from gpt4x.preparation.duplicates import matching
  shards, per_shard, draw = 10 * millions, 100_000, np.random.default_rng(0)
  with tempfile.TemporaryDirectory(prefix="signatures-") as name:
    folder = pathlib.Path(name)
    paths = {kind: [folder / f"{number}.{kind}" for number in range(shards)] for kind in ("keys", "alike")}
    for number, path in enumerate(paths["keys"]):
      documents = np.arange(number * per_shard, (number + 1) * per_shard)
      documents = np.where(draw.random(per_shard) < 0.1, draw.integers(0, number * per_shard + 1, per_shard), documents)
      entries = np.zeros(14 * per_shard, shard_files.ENTRY)
      entries["row"] = np.repeat(np.arange(per_shard), 14)
      from gpt4x.preparation.duplicates import hashing
      entries["key"] = hashing.mixed((documents[:, None] * 14 + np.arange(14)).astype(np.uint64)).ravel()
      shard_files.write_entries(path, entries)
    parts = matching.parts(paths["keys"])
    matches = [folder / f"{number}.matches" for number in range(len(parts))]
    for part, path in zip(parts, matches):
      matching.write_matches(paths["keys"], part, path, pairs=True)
    for shard, path in enumerate(paths["alike"]):  # All pairs with a key in common are alike: numbers are equal or not.
      found = np.unique(np.concatenate([
          shard_files.Groups(one).read(shard, shard + 1, shard_files.MATCH) for one in matches]))
      shard_files.write_groups(path, [found])
    matching.write_chosen(paths["alike"], folder / "chosen")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return peak - 24 * millions * 1e6 / (1 << 20)


if __name__ == "__main__":
  scripts.main(rows, rounds=None)
