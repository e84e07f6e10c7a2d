"""What the scripts share: their flags, and where rows are kept."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import sys

from benchmarks import run
from benchmarks.harness import Row

DATATROVE, DOLMA = "peer", "dolma"  # Flags of peers.
_PEERS: Mapping[str, str] = {DATATROVE: "datatrove", DOLMA: "dolma"}


@dataclasses.dataclass(frozen=True)
class Given:
  """What a script was given.

  Attributes:
    data: the directory of its data.
    rounds: of what is timed.
    peers: the interpreters of the peers' environments by flag, of those that were given.
  """

  data: str
  rounds: int
  peers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def main(rows: Callable[[Given], Iterator[Row]], data: str = "the directory of the public sets",
         peers: Sequence[str] = (), rounds: int | None = 3) -> None:
  """Runs a script: prints each row as soon as it is measured, and keeps it unless it is a dry run.

  Args:
    rows: measures.
    data: what the directory of --data has.
    peers: flags of the peers that the script takes: DATATROVE, DOLMA.
    rounds: unless told otherwise; None where nothing is timed, and there is no such flag.
  """
  command = f"python -m benchmarks.preparation.{pathlib.Path(sys.argv[0]).stem}"
  parser = argparse.ArgumentParser(prog=command)
  parser.add_argument("--data", required=True, metavar="DIR", help=data)
  for flag in peers:
    parser.add_argument(f"--{flag}", metavar="PYTHON", help=f"the interpreter of an environment with {_PEERS[flag]}")
  if rounds is not None:
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of what is timed (default: {rounds})")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  flags = vars(parser.parse_args())
  pythons = {flag: flags[flag] for flag in peers if flags[flag]}
  shown = ["--data=DIR", *(f"--{flag}=PYTHON" for flag in pythons)]
  if flags.get("rounds") is not None:
    rounds = flags["rounds"]
    shown.append(f"--rounds={rounds}")
  given = Given(os.path.abspath(flags["data"]), 1 if rounds is None else rounds, pythons)
  described = run.described(run.machine(), given.rounds) | {"command": " ".join([command, *shown])}
  for row in rows(given):
    print(f"{row.name} {row.value:.6g} {row.unit}, peer {row.peer}, ratio {row.ratio}; {row.goal}: {row.met}",
          flush=True)
    if not flags["dry_run"]:
      run.keep([row], described)
