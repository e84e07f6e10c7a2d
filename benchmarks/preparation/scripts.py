"""What the scripts share: their flags, and where rows are kept."""

import argparse
from collections.abc import Callable, Iterator
import os
import pathlib
import sys

from benchmarks import run
from benchmarks.harness import Row


def main(rows: Callable[[str, int], Iterator[Row]], data: str) -> None:
  """Prints the rows that a function of --data and --rounds yields, and keeps them unless it is a dry run."""
  script = pathlib.Path(sys.argv[0])
  command = f"python -m benchmarks.preparation.{script.stem}"
  parser = argparse.ArgumentParser(prog=command)
  parser.add_argument("--data", required=True, metavar="DIR", help=data)
  parser.add_argument("--rounds", type=int, default=3, help="rounds of what is timed (default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  described = run.described(run.machine(), arguments.rounds) | {"command": f"{command} --data=DIR"}
  for row in rows(os.path.abspath(arguments.data), arguments.rounds):
    print(f"{row.name} {row.value:.6g} {row.unit}, peer {row.peer}, ratio {row.ratio}; {row.goal}: {row.met}",
          flush=True)
    if not arguments.dry_run:
      run.keep([row], described)
