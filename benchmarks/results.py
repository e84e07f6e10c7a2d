"""Where figures are kept: results.json, row by row, and the part of RESULTS.md that is made from it."""

from collections.abc import Iterable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from rich import console
from rich import table as rich_table

from benchmarks.harness import Row

Record = dict[str, Any]  # The fields of a Row, `met`, and the rounds, commit, machine and date of the run.

HEADING = "# Measured by `make bench`"
_RUN = ("rounds", "commit", "date")
_COLUMNS = ("what", "figure", "unit", "peer", "ratio", "of limit", "goal", "met")


def merge(path: pathlib.Path, rows: Iterable[Row], **run: str | int) -> list[Record]:
  """Puts rows into results.json, each in the place of that of its name, and returns all. Whatever their goals say."""
  records = {record["name"]: record for record in (json.loads(path.read_text()) if path.exists() else [])}
  records |= {row.name: dataclasses.asdict(row) | {"met": row.met} | run for row in rows}
  lines = ",\n".join(json.dumps(record) for record in records.values())
  path.write_text(f"[\n{lines}\n]\n")
  return list(records.values())


def write_page(path: pathlib.Path, records: Sequence[Record], explanations: dict[str, str]) -> None:
  """Makes RESULTS.md anew from HEADING on: for each group what its figures mean, and a table of them."""
  kept = path.read_text().partition(HEADING)[0].rstrip() if path.exists() else ""
  parts = [kept, HEADING, "Ratios are medians over rounds in which both sides take turns; see `benchmarks/harness.py`."]
  for group, explanation in explanations.items():
    found = [record for record in records if record["name"].split("/")[0] == group]
    if found:
      header = [*_COLUMNS, *_RUN]
      cells = [[*_cells(record), *(str(record[name]) for name in _RUN)] for record in found]
      parts += [f"## {group}", explanation.strip(), "\n".join(
          f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells))]
      parts += sorted({record["machine"] for record in found})
  path.write_text("\n\n".join(part for part in parts if part) + "\n")


def print_table(records: Sequence[Record]) -> None:
  table = rich_table.Table(rich_table.Column(_COLUMNS[0], no_wrap=True), *_COLUMNS[1:])
  for record in records:
    table.add_row(*_cells(record), style="red" if record["met"] is False else None)
  console.Console().print(table)


def _cells(record: Record) -> list[str]:
  number = lambda value: "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
  share = record["limit_share"]
  met = {True: "yes", False: "NO", None: ""}[record["met"]]
  error = record.get("error")  # Which older records lack.
  figure = number(record["value"]) if error is None else f"{record['value']:.4g} ± {error:.1g}"
  return [record["name"], figure, record["unit"], number(record["peer"]), number(record["ratio"]),
          "" if share is None else f"{share:.0%}", record["goal"].replace(">=", "≥").replace("<=", "≤"), met]
