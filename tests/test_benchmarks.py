"""The benchmarks' harness: sides in turn, and results that keep what is missed. The peers themselves are not run."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import gpu, harness, results, run
from benchmarks.harness import Row

RUN = dict(rounds=3, commit="abc", machine="here", date="2026-01-01")


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
    ("value < 5", False), ("value <= 5", True), ("value > 5", False), ("value > 4", True)])
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
  assert "| train/a | 1.25 | s | 1 | 1.25 | 75% | ratio ≥ 1.6 | NO | 3 | def | 2026-01-01 |" in text
  assert text.count(results.HEADING) == text.count("About training.") == text.count("here\n") - 1 == 1


def test_every_group_has_a_module_that_says_what_it_measures():
  for name in run.GROUPS.values():
    assert __import__(f"benchmarks.{name}", fromlist=["rows"]).__doc__


def test_the_gpu_script_measures_the_shipped_model():
  shipped = {}
  for name in ("decoder", "dense_1.3b"):
    text = (run.HERE.parent / f"gin_configs/models/{name}.gin").read_text()
    shipped |= re.findall(r"^TransformerConfig\.(\w+) = (.*)$", text, re.MULTILINE)
  assert gpu.DENSE == {name: ast.literal_eval(value) for name, value in shipped.items()}


def test_mfu_counts_causal_attention_once():
  case = gpu.make_cases(1, 1, {"norm_epsilon": 0.5}, tiny=True)[0]
  c = case.config
  assert (c.norm_epsilon, c.memory_length, c.positions, c.vocab_size) == (0.5, 0, "rotary", 256)
  limit = [{"flops": 1e12, "published": 4e12}]
  ours, theirs = ([{"tokens": tokens, "device_memory": 1.0}] for tokens in (1e5, 2e5))
  speed, all_keys, memory, product = gpu._train_rows(case, ours, theirs, limit)

  # Of 6 for each number of a matrix that a token meets, and 3 * 4 D for each key: D = 64, F = 224, two key/value heads.
  matrices = 2 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 224) + 64 * 256
  assert speed.limit_share == pytest.approx(1e5 * (6 * matrices + 2 * 12 * 64 * 33 / 2) / 1e12)
  assert all_keys.limit_share == pytest.approx(1e5 * (6 * matrices + 2 * 12 * 64 * 32) / 1e12)
  assert (speed.value, speed.ratio, memory.ratio, product.limit_share) == (1e5, 0.5, 1, 0.25)
  assert speed.met is False
  assert next(gpu._train_rows(case, ours, None, limit)).goal == "limit_share >= 0.5"


def test_the_gpu_script_runs_without_what_reads_data(tmp_path):
  for name in ("seqio", "tensorflow", "t5x"):
    (tmp_path / f"{name}.py").write_text("raise SystemError(__name__)")  # Which nothing takes for a missing module.
  finished = subprocess.run(
      [sys.executable, "-m", "benchmarks.gpu", "gpu/train/1.3b", "gpu/decode/b1", "--tiny", "--rounds=1",
       "--set=loss_chunk=8", f"--out={tmp_path}"], capture_output=True, text=True, cwd=run.HERE.parent,
      env=os.environ | {"PYTHONPATH": f"{tmp_path}:{run.HERE.parent}"})
  assert finished.returncode == 0, finished.stderr
  records = {record["name"]: record for record in json.loads((tmp_path / "results.json").read_text())}
  assert list(records) == [*(f"gpu/train/1.3b{part}" for part in ("", "/all-keys", "/memory", "/product")),
                           "gpu/decode/b1", "gpu/decode/b1/copy"]
  assert all(record["value"] > 0 and "toy sizes, loss_chunk=8" in record["machine"] for record in records.values())
  for name in ("gpu/train/1.3b", "gpu/decode/b1"):
    assert records[name]["limit_share"] > 0
    if not importlib.util.find_spec("torch"):
      assert records[name]["peer"] is None and "come without a peer" in finished.stderr
  assert "## gpu\n\nOne GPU" in (tmp_path / "RESULTS.md").read_text()


def test_the_gpu_script_says_that_there_is_no_gpu(monkeypatch, capsys):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert gpu.main([]) == 1
  assert re.fullmatch("no GPU here: JAX finds cpu.*--tiny.*\n", capsys.readouterr().err)
