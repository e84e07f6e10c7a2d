"""`gpt4x cache`: lists what the data directory keeps of tasks, and removes what is named."""

import argparse

from gpt4x.data import data_dir, prepared, shared_dir
from gpt4x.errors import UserError


def run(arguments: argparse.Namespace) -> None:
  pattern, days = arguments.remove or "*", arguments.older_than
  where = shared_dir() or data_dir()
  found = prepared.find(pattern, days)
  if not found and (arguments.remove or days):
    unused = f" and unused for {days:g} days" if days else ""
    raise UserError(f"nothing in {where} is called {pattern!r}{unused}: gpt4x cache lists what is there")
  width = max([len(one.path.name) for one in found] + [4])
  print(f"{'NAME':{width}}  {'MADE':10}  {'LAST USED':10}  {'SIZE':>9}  SPLIT")
  for one in found:
    if arguments.remove:
      prepared.remove(one)
    made, used = prepared.day_of(one.made), prepared.day_of(one.used)
    print(f"{one.path.name:{width}}  {made}  {used}  {_size(one.size):>9}  {one.what}")
  total = _size(sum(one.size for one in found))
  print(f"{'removed ' if arguments.remove else ''}{len(found)} entries, {total}, in {where}")


def _size(number: float) -> str:
  for unit in ("B", "kB", "MB", "GB"):
    if number < 999.5:
      return f"{number:.3g} {unit}"
    number /= 1000
  return f"{number:,.3g} TB"
