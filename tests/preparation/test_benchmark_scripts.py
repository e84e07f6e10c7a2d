"""The scripts that measure preparations: their flags, and what is kept of their rows."""

import importlib
import os
import re
import runpy
import sys

import pytest

from benchmarks import run
from benchmarks.harness import Row
from benchmarks.preparation import scripts

PEERS = [scripts.DATATROVE, scripts.DOLMA]


@pytest.fixture(name="kept")
def _kept(monkeypatch):
  """(names of rows, what is kept with them) as they come."""
  found = []
  monkeypatch.setattr(run, "keep", lambda rows, described: found.append(([row.name for row in rows], described)))
  monkeypatch.setattr(run, "described", lambda machine, rounds: {"rounds": rounds})
  return found


def script(monkeypatch, rows, *flags, **options):
  monkeypatch.setattr(sys, "argv", ["benchmarks/preparation/filters.py", *flags])
  scripts.main(rows, **options)


@pytest.mark.parametrize("flags, shown, rounds", [
    ([], "", 5), (["--peer=bin/python"], " --peer=PYTHON", 5), (["--dolma=a", "--rounds=2"],
                                                                " --dolma=PYTHON --rounds=2", 2)])
def test_the_command_that_is_kept_has_the_flags_that_were_given(monkeypatch, kept, flags, shown, rounds):
  script(monkeypatch, lambda given: iter([Row("a", given.rounds, "u")]), "--data=sets", *flags, peers=PEERS, rounds=5)
  assert kept == [(["a"], {"rounds": rounds,
                           "command": f"python -m benchmarks.preparation.filters --data=DIR{shown}"})]


def test_a_row_is_kept_before_the_next_is_measured(monkeypatch, kept, capsys):
  def rows(given):
    assert given == scripts.Given(os.path.abspath("sets"), 3, {"dolma": "python"})
    yield Row("a", 1, "u", goal="value >= 1")
    assert [names for names, _ in kept] == [["a"]]
    raise RuntimeError("the second")

  with pytest.raises(RuntimeError, match="the second"):
    script(monkeypatch, rows, "--data=sets", "--dolma=python", peers=PEERS)
  assert capsys.readouterr().out == "a 1 u, peer None, ratio None; value >= 1: True\n"


def test_a_dry_run_keeps_nothing(monkeypatch, kept, capsys):
  script(monkeypatch, lambda given: iter([Row("a", 1, "u")]), "--data=sets", "--dry_run", rounds=None)
  assert not kept and capsys.readouterr().out.startswith("a 1 u")


@pytest.mark.parametrize("flag", ["--peer=python", "--rounds=2"])
def test_what_a_script_does_not_take_is_refused(monkeypatch, kept, capsys, flag):
  with pytest.raises(SystemExit):
    script(monkeypatch, lambda given: iter(()), "--data=sets", flag, rounds=None)
  assert f"unrecognized arguments: {flag}" in capsys.readouterr().err and not kept


@pytest.mark.parametrize("name", [
    "extraction", "filters", "kills", "memory", "near_duplicates", "personal_data", "rules", "warc",
    "workers"])
def test_a_script_takes_the_flags_that_its_first_lines_show(monkeypatch, capsys, name):
  if name == "personal_data":
    pytest.importorskip("re2")
  monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
  monkeypatch.delitem(sys.modules, f"benchmarks.preparation.{name}", raising=False)  # Of which runpy would warn.
  with pytest.raises(SystemExit) as ended:
    runpy.run_module(f"benchmarks.preparation.{name}", run_name="__main__")
  flags = lambda text: set(re.findall(r"--\w+", text)) - {"--help"}
  doc = importlib.import_module(f"benchmarks.preparation.{name}").__doc__
  shown, = (line for line in doc.splitlines() if f"python -m benchmarks.preparation.{name} " in line)
  assert ended.value.code == 0 and flags(capsys.readouterr().out) == flags(shown)
