"""What the scripts with peers share: their environments, and where rows are kept."""

import argparse
from collections.abc import Callable
import dataclasses
import pathlib
import sys

from benchmarks import run
from benchmarks.harness import Row


@dataclasses.dataclass(frozen=True)
class Pythons:
  """The interpreters of the peers' environments, where they were given."""

  peer: str | None
  dolma: str | None


def main(rows: Callable[[str, Pythons, int], list[Row]]) -> None:
  """Runs a script: measures its rows, and keeps them in results.json and RESULTS.md."""
  name = pathlib.Path(sys.argv[0]).stem
  command = f"python -m benchmarks.preparation.{name}"
  parser = argparse.ArgumentParser(prog=command)
  parser.add_argument("--data", required=True, metavar="DIR", help="the directory of the public sets")
  parser.add_argument("--peer", metavar="PYTHON", help="the interpreter of an environment with datatrove")
  parser.add_argument("--dolma", metavar="PYTHON", help="the interpreter of an environment with dolma")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  for row in rows(arguments.data, Pythons(arguments.peer, arguments.dolma), arguments.rounds):
    print(row, row.met, flush=True)
    if not arguments.dry_run:
      command_run = f"{command} --data=DIR --peer=PYTHON --dolma=PYTHON"
      run.keep([row], run.described(run.machine(), arguments.rounds) | {"command": command_run})
