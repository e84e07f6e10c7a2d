"""Runs of adapters, by the commands: trained, stopped, moved, evaluated, decoded, merged."""

import json
import shutil

import jax
import pytest

from gpt4x import cli
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.commands import reading
from gpt4x.partitioning import Partitioner
from tests.integration import corpus
from tests.integration.faults import trail

ONE_DEVICE = dict(Partitioner__data=1, Partitioner__num_devices=1)
BASE = ONE_DEVICE | dict(TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=None)
RUN = ONE_DEVICE | dict(TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=4, EVAL_STEPS=None,
                        LanguageModel__form=corpus.Reference("@LowRank()"), LowRank__rank=2, train__microbatches=2)


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  """A corpus, a base, and adapters of four steps."""
  folder = tmp_path_factory.mktemp("made")
  corpus.write(folder / "text")
  assert cli.main(corpus.flags(folder / "text", folder / "base", **BASE)) == 0
  assert cli.main(adapters(folder, folder / "run")) == 0
  return folder


def adapters(folder, run, **bindings):
  return corpus.flags(folder / "text", run, **RUN | {"LowRank__base": str(folder / "base")} | bindings)


def last_line(capsys):
  return capsys.readouterr().err.splitlines()[-1]


def evaluated(capsys, run):
  capsys.readouterr()
  assert cli.main(["eval", f"--model_dir={run}"]) == 0
  return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}


def metrics(run):
  return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_checkpoints_hold_adapters_alone(made):
  names = Checkpoints(str(made / "run")).param_shapes()
  assert names and {name.rpartition("/")[2] for name in names} == {"low", "high"}
  record = json.loads((made / "run" / "checkpoints" / "4" / "checkpoint.json").read_text())["record"]
  assert record["frozen"]["base"][:2] == [str(made / "base"), 4]
  lines = [line["loss"] for line in metrics(made / "run") if line["split"] == "train"]
  assert lines[-1] < lines[0]


def test_a_run_that_stops_goes_on_as_if_it_had_not(made, tmp_path):
  assert cli.main(adapters(made, tmp_path / "run", TRAIN_STEPS=2)) == 0
  assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=4"]) == 0
  plain = lambda run: [line for line in trail(run) if "validation" not in str(line)]
  assert plain(tmp_path / "run") == plain(made / "run")


def test_eight_devices_are_one(made, tmp_path):
  mesh = {"Partitioner__num_devices": None, "Partitioner__data": 2, "Partitioner__fsdp": 2, "Partitioner__tensor": 2}
  losses = lambda run: [line["loss"] for line in metrics(run)]
  plain = dict(EVAL_PERIOD=None, train__microbatches=1, TransformerConfig__dropout_rate=0.0)
  assert cli.main(adapters(made, tmp_path / "one", **plain)) == 0
  assert cli.main(adapters(made, tmp_path / "eight", **plain | mesh)) == 0
  assert losses(tmp_path / "eight") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_what_it_says_while_training_it_says_afterwards_merged_and_exported(made, tmp_path, capsys):
  loss = metrics(made / "run")[-1]["loss"]
  assert evaluated(capsys, made / "run")["loss"] == pytest.approx(loss, rel=1e-5)
  assert evaluated(capsys, made / "base")["loss"] != pytest.approx(loss, rel=1e-3)
  assert cli.main(["export", f"--model_dir={made}/run", f"--output={tmp_path}/files"]) == 0
  assert cli.main(["convert", "--from=safetensors", f"--input={tmp_path}/files", f"--model_dir={tmp_path}/back"]) == 0
  assert evaluated(capsys, tmp_path / "back")["loss"] == pytest.approx(loss, rel=1e-5)
  say = lambda run: cli.main(["generate", f"--model_dir={run}", "--prompt=memory ", "--max_tokens=12",
                              "--temperature=0"]) or capsys.readouterr().out
  assert say(made / "run") == say(tmp_path / "back")
  assert cli.main(["compress", f"--model_dir={made}/run", f"--output={tmp_path}/small", "--quantize=int8",
                   "--max_batches=1"]) == 0
  assert evaluated(capsys, tmp_path / "small")["loss"] == pytest.approx(loss, rel=1e-3)


def test_integers_stay_under_adapters(made, tmp_path, capsys):
  assert cli.main(["compress", f"--model_dir={made}/base", f"--output={tmp_path}/small", "--quantize=int4",
                   "--calibrate=round", "--max_batches=0"]) == 0
  assert cli.main(adapters(made, tmp_path / "run", LowRank__base=str(tmp_path / "small"))) == 0
  loss = metrics(tmp_path / "run")[-1]["loss"]
  assert evaluated(capsys, tmp_path / "run")["loss"] == pytest.approx(loss, rel=1e-4)
  assert loss != metrics(made / "run")[-1]["loss"]
  experiment = reading.saved_experiment(str(tmp_path / "run"))
  _, params = experiment.restore_params(str(tmp_path / "run"), Partitioner(data=1, num_devices=1))
  assert "uint8" in {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
  assert cli.main(["generate", f"--model_dir={tmp_path}/run", "--prompt=memory ", "--max_tokens=4"]) == 0
  assert cli.main(["export", f"--model_dir={tmp_path}/run", f"--output={tmp_path}/files"]) == 0
  assert cli.main(["convert", "--from=safetensors", f"--input={tmp_path}/files", f"--model_dir={tmp_path}/back"]) == 0
  assert evaluated(capsys, tmp_path / "back")["loss"] == pytest.approx(loss, rel=1e-3)


def test_a_base_that_is_gone_or_another_is_said(made, tmp_path, capsys):
  shutil.copytree(made / "run", tmp_path / "run")
  shutil.copytree(made / "base", tmp_path / "base")
  there = f"--gin.LowRank.base='{tmp_path / 'base'}'"
  assert cli.main(["train", f"--model_dir={tmp_path}/run", "--gin.TRAIN_STEPS=5", there]) == 0
  assert cli.main(["train", f"--model_dir={tmp_path}/base", "--gin.TRAIN_STEPS=6"]) == 0
  assert cli.main(["train", f"--model_dir={tmp_path}/run", "--gin.TRAIN_STEPS=6", there, "--gin.LowRank.step=6"]) == 1
  assert "has other parameters at step 6 than this run has had, from step 4 of" in last_line(capsys)
  shutil.rmtree(tmp_path / "base")
  for command in (["train", "--gin.TRAIN_STEPS=6"], ["eval"], ["generate", "--prompt=a"]):
    assert cli.main([command[0], f"--model_dir={tmp_path}/run", *command[1:]]) in (1, 2)
    assert "LowRank.base = " in (line := last_line(capsys)) and "has no config.gin: name" in line
  assert cli.main(adapters(made, tmp_path / "other", LowRank__base=str(made / "run"))) in (1, 2)
  assert "holds adapters alone: name their base" in last_line(capsys)
