"""Two workers beside one.

  two_workers  documents a second of two workers, over those of one, of 1,600 documents (29 MB); processes are started
               in it

    python -m benchmarks.preparation.workers --data=DIR [--rounds=5] [--dry_run]
"""

from collections.abc import Iterator
import pathlib
import subprocess
import tempfile
import time

import numpy as np

from benchmarks.harness import Row
from benchmarks.preparation import scripts
from benchmarks.preparation.whole import command, write


def rows(given: scripts.Given) -> Iterator[Row]:
  with tempfile.TemporaryDirectory(prefix="workers-") as name:
    folder = pathlib.Path(name)
    documents = write(given.data, folder, 600, others=1)
    speeds = [workers(folder, documents, round_) for round_ in range(given.rounds)]
  one, two = (float(np.median([speed[count] for speed in speeds])) for count in (1, 2))
  ratio = float(np.median([speed[2] / speed[1] for speed in speeds]))
  yield Row("preparation/two_workers", two, "documents/s", one, ratio, goal="ratio >= 1.8")


def workers(folder: pathlib.Path, documents: int, round_: int) -> dict[int, float]:
  """Documents a second by the number of workers; the start of processes is in it."""
  found = dict[int, float]()
  for count in (1, 2) if round_ % 2 else (2, 1):
    started = time.monotonic()
    subprocess.run(command(folder, f"workers{count}_{round_}", count), check=True, capture_output=True)
    found[count] = documents / (time.monotonic() - started)
  return found


if __name__ == "__main__":
  scripts.main(rows, rounds=5)
