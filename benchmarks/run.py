"""Measures, prints a table, and keeps the figures in benchmarks/results.json and RESULTS.md: `make bench`.

    python -m benchmarks.run [GROUP ...] [--rounds=N]
"""

import argparse
from collections.abc import Iterable
import datetime
import importlib
import os
import pathlib
import platform
import re
import shutil
import subprocess

from benchmarks import results
from benchmarks.harness import Row

# What can be measured apart, and the module that makes the rows.
GROUPS = {"train": "training", "plain": "plain", "equal": "equal_seconds", "eval": "evaluation", "decode": "decoding",
          "loss": "loss", "pipeline": "pipeline", "start": "start", "newcomer": "newcomer"}
# The first part of the rows' names, where it is not the group's.
SECTIONS = {"plain": "train", "equal": "train"}
HERE = pathlib.Path(__file__).parent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)} (default: all)")
  parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted (default: %(default)s)")
  arguments = parser.parse_args()
  if unknown := set(arguments.groups) - set(GROUPS):
    parser.error(f"no group {', '.join(unknown)}: choose some of {', '.join(GROUPS)}")
  modules = {group: importlib.import_module(f"benchmarks.{name}") for group, name in GROUPS.items()}
  run = described(machine(), arguments.rounds)
  for group in arguments.groups or GROUPS:
    names = set()
    # Kept one by one: what comes later may fail.
    for row in modules[group].rows(arguments.rounds):
      names.add(row.name)
      records = keep([row], run)
    results.print_table([record for record in records if record["name"] in names])


def described(machine: str, rounds: int) -> dict[str, str | int]:
  """What is kept of a run with each of its rows."""
  return {"rounds": rounds, "commit": _commit(), "machine": machine, "date": datetime.date.today().isoformat()}


def keep(rows: Iterable[Row], run: dict[str, str | int], folder: pathlib.Path = HERE) -> list[results.Record]:
  """Puts rows into the results.json and the RESULTS.md of a folder, and returns all that are there."""
  records = results.merge(folder / "results.json", rows, **run)
  explanations: dict[str, str] = {}
  others = "gpu", "media", "compression", "posttraining", "knowledge", "algorithms", "preparation", "serving"
  for group, name in (GROUPS | {name: name for name in others}).items():
    documented = importlib.import_module(f"benchmarks.{name}").__doc__.strip()
    section = SECTIONS.get(group, group)
    explanations[section] = f"{explanations.get(section, '')}\n\n{documented}".strip()
  results.write_page(folder / "RESULTS.md", records, explanations)
  return records


def keep_seeds(rows: Iterable[Row], seeds: int, command: str, dry_run: bool) -> None:
  """Prints rows that are means over seeds as they come, and keeps each at once unless it is a dry run."""
  run = described(machine(), seeds) | {"seeds": seeds, "command": command}
  for row in rows:
    error = "" if row.error is None else f" ± {row.error:.2g}"
    print(f"{row.name} {row.value:.6g}{error} {row.unit}; {row.goal}: {row.met}", flush=True)
    if not dry_run:
      keep([row], run)


def machine() -> str:
  """Cores, processor and memory."""
  name = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists() and (match := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
    name = match[1]
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
  return f"{os.cpu_count()} cores of {name}, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def _commit() -> str:
  """The checked-out commit, with a + if files beside the results differ from it; empty where there is no git."""
  if not shutil.which("git"):
    return ""
  git = lambda *command: subprocess.run(["git", *command], cwd=HERE, capture_output=True, text=True).stdout.strip()
  changed = git("status", "--porcelain", "--", ":/", ":!/benchmarks/RESULTS.md", ":!/benchmarks/results.json")
  return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


if __name__ == "__main__":
  main()
