"""What kills do to the output of a preparation.

  kills_identical  of 50 preparations that were killed at random moments and begun again until they were whole, those
                   whose output has the same bytes as one that was never killed

    python -m benchmarks.preparation.kills --data=DIR [--dry_run]
"""

from collections.abc import Iterator
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

from benchmarks.harness import Row
from benchmarks.preparation import scripts
from benchmarks.preparation.whole import command, content, write

KILLS = 50


def rows(given: scripts.Given) -> Iterator[Row]:
  with tempfile.TemporaryDirectory(prefix="kills-") as name:
    folder = pathlib.Path(name)
    write(given.data, folder)
    yield Row("preparation/kills_identical", kills(folder), f"of {KILLS}", goal=f"value >= {KILLS}")


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


if __name__ == "__main__":
  scripts.main(rows, rounds=None)
