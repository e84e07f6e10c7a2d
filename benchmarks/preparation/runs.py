"""Whole preparations: what kills do to the output, two workers beside one, and the memory of many documents.

  kills_identical  of 50 preparations that were killed at random moments and begun again until they were whole, those
                   whose output has the same bytes as one that was never killed
  two_workers      documents a second of two workers, over those of one
  memory_mib       the most that a process takes at comparing the signatures of 10 million documents, less 24 bytes for
                   each; the documents are numbers, of which one in ten is like an earlier one

    python -m benchmarks.preparation.runs --data=DIR [--rounds=5] [--dry_run]
"""

from collections.abc import Iterator
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.preparation import scripts, texts

KILLS, DOCUMENTS, MILLIONS = 50, 300, 10
STEPS = """Preparation.steps = [
    @RepairEncoding(), @Language(), @GopherRepetition(), @GopherQuality(), @C4(), @FineWeb(), @NearDuplicates(),
    @RepeatedLines(), @RepeatedSubstrings(), @PersonalData()]
Preparation.shard_bytes = 100000
C4.terminal_punctuation = False
"""


def rows(given: scripts.Given) -> Iterator[Row]:
  with tempfile.TemporaryDirectory(prefix="preparation-") as name:
    folder = pathlib.Path(name)
    write(given.data, folder)
    yield Row("preparation/kills_identical", kills(folder), f"of {KILLS}", goal=f"value >= {KILLS}")
    speeds = [workers(folder, round_) for round_ in range(given.rounds)]
  one, two = (float(np.median([speed[count] for speed in speeds])) for count in (1, 2))
  ratio = float(np.median([speed[2] / speed[1] for speed in speeds]))
  yield Row("preparation/two_workers", two, "documents/s", one, ratio, goal="ratio >= 1.8")
  yield Row("preparation/memory_mib", harness.in_a_process(memory_of_millions, MILLIONS), "MiB", goal="value <= 512")


def write(source: str, folder: pathlib.Path) -> None:
  """Articles, some of them twice with a few words changed, in twelve files."""
  draw, documents = random.Random(0), texts.articles(source, DOCUMENTS)
  documents += [texts.changed(text, 0.01, draw) for text in documents[::3]]
  draw.shuffle(documents)
  (folder / "input").mkdir()
  for number in range(12):
    texts.write(folder / "input" / f"{number:02}.jsonl", documents[number::12])
  (folder / "steps.gin").write_text(STEPS)


def command(folder: pathlib.Path, output: str, count: int) -> list[str]:
  return [sys.executable, "-m", "gpt4x.cli", "prepare", f"--gin_file={folder / 'steps.gin'}",
          f"--input={folder / 'input' / '*.jsonl'}", f"--output={folder / output}", f"--workers={count}"]


def kills(folder: pathlib.Path) -> int:
  """How many of KILLS outputs are the same as that of a run that was left alone."""
  started = time.monotonic()
  subprocess.run(command(folder, "whole", 2), check=True, capture_output=True)
  took, whole, draw, same = time.monotonic() - started, content(folder / "whole"), random.Random(0), 0
  for number in range(KILLS):
    output = f"killed{number}"
    process = subprocess.Popen(command(folder, output, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
      process.wait(draw.uniform(0.1, 1) * took)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    subprocess.run(command(folder, output, 2), check=True, capture_output=True)
    same += content(folder / output) == whole
  return same


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def workers(folder: pathlib.Path, round_: int) -> dict[int, float]:
  """Documents a second by the number of workers; the start of processes is in it."""
  found = dict[int, float]()
  for count in (1, 2) if round_ % 2 else (2, 1):
    started = time.monotonic()
    subprocess.run(command(folder, f"workers{count}_{round_}", count), check=True, capture_output=True)
    found[count] = DOCUMENTS * 4 / 3 / (time.monotonic() - started)
  return found


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
  scripts.main(rows, rounds=5)
