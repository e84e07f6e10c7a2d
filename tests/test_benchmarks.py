"""The benchmarks' harness: sides in turn, and results that keep what is missed. The peers themselves are not run."""

import json
import os

import pytest

from benchmarks import harness, results, run
from benchmarks.harness import Row

RUN = dict(commit="abc", machine="here", date="2026-01-01")


def counting(case):
  """Round i takes i * case."""
  count = 0

  def round():
    nonlocal count
    count += 1
    return {"seconds": count * case, "process": os.getpid()}

  return round


def twice(case):
  return counting(2 * case)


def failing(case):
  raise ValueError(f"no {case}")


def test_sides_take_turns_in_processes_of_their_own():
  found = harness.alternate({"ours": counting, "peer": twice}, 10.0, rounds=2)
  assert [result["seconds"] for result in found["ours"]] == [20, 30]  # The first is dropped.
  assert len({result["process"] for results in found.values() for result in results} | {os.getpid()}) == 3
  assert all(0 < result["peak_memory"] < 1 for results in found.values() for result in results)
  row = harness.compare("train/x", "s", found["ours"], found["peer"], "seconds", goal="ratio <= 0.5")
  assert (row.value, row.peer, row.ratio, row.met) == (25, 50, 0.5, True)


def test_a_side_that_fails_says_why():
  with pytest.raises(RuntimeError, match="failing failed(.|\n)*ValueError: no case"):
    harness.alternate({"ours": failing}, "case", rounds=1)


def test_ratios_are_of_the_same_round():
  ours, peer = ([{"seconds": value} for value in values] for values in ((1, 10, 9), (2, 10, 10)))
  assert harness.median_ratio(ours, peer, "seconds") == 0.9


@pytest.mark.parametrize("goal, met", [
    ("", None), ("ratio >= 1.6", True), ("ratio >= 1.7", False), ("ratio >= 1 and limit_share >= 0.6", False),
    ("value < 5", False), ("value <= 5", True)])
def test_goals(goal, met):
  assert Row("train/x", 5.0, "s", ratio=1.6, limit_share=0.5, goal=goal).met is met


def test_rows_are_merged_by_name_and_missed_goals_stay(tmp_path):
  path, page = tmp_path / "results.json", tmp_path / "RESULTS.md"
  page.write_text("# By hand\n\nstays\n")
  explanations = {"train": "About training.", "eval": "About evaluation."}
  first = [Row("train/a", 1.0, "s", 2.0, 0.5, goal="ratio >= 1.6"), Row("eval/b", 3.0, "x")]
  results.write_page(page, results.merge(path, first, **RUN), explanations)
  again = [Row("train/a", 1.25, "s", 1.0, 1.25, 0.75, goal="ratio >= 1.6")]
  again = results.merge(path, again, **RUN | {"commit": "def"})
  results.write_page(page, again, explanations)

  records = json.loads(path.read_text())
  assert records == again
  assert [record["name"] for record in records] == ["train/a", "eval/b"]
  assert {"name", "value", "unit", "peer", "ratio", "limit_share", "goal"} <= set(records[0])
  assert (records[0]["value"], records[0]["met"], records[0]["commit"]) == (1.25, False, "def")
  text = page.read_text()
  assert text.startswith("# By hand\n\nstays\n\n" + results.HEADING)
  assert "| train/a | 1.25 | s | 1 | 1.25 | 75% | ratio ≥ 1.6 | NO | def | 2026-01-01 |" in text
  assert text.count(results.HEADING) == text.count("About training.") == text.count("here\n") - 1 == 1


def test_every_group_has_a_module_that_says_what_it_measures():
  for name in run.GROUPS.values():
    assert __import__(f"benchmarks.{name}", fromlist=["rows"]).__doc__
