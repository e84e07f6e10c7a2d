"""`gpt4x compress` as a user gives it: what it writes is a model directory for every other command."""

import json
import re

import jax
import numpy as np
import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.partitioning import Partitioner
from tests.integration import corpus


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("compress")
  text = corpus.write(folder / "text")
  assert cli.main(corpus.flags(text, folder / "run", TRAIN_STEPS=16, EVAL_STEPS=None)) == 0
  return folder / "run"


@pytest.fixture(scope="module", name="small")
def _small(run):
  """The run with integers of four bits, and what the command printed is left to the tests."""
  assert cli.main(["compress", f"--model_dir={run}", f"--output={run.parent}/small", "--quantize=int4",
                   "--calibration_batches=2", "--max_batches=2"]) == 0
  return run.parent / "small"


def evaluated(capsys, directory):
  capsys.readouterr()
  assert cli.main(["eval", f"--model_dir={directory}"]) == 0
  return {name: float(value) for name, value in (line.split() for line in capsys.readouterr().out.splitlines())}


def failure(capsys, *argv):
  status = cli.main([str(arg) for arg in argv])
  lines = capsys.readouterr().err.splitlines()
  assert not [line for line in lines if "Traceback" in line]
  return status, lines[-1]


@pytest.mark.parametrize("flags, worse, share", [
    (["--quantize=int8"], 1.001, 0.45), (["--quantize=int8-all"], 1.01, 0.45),  # So small kernels have many scales.
    (["--prune=sparsegpt:2:4", "--prune=heads:50%"], 1.5, 0.99)])
def test_what_it_says_is_what_eval_finds(flags, worse, share, run, tmp_path, capsys):
  """On the whole split, and the directory is a model's like any other."""
  before = evaluated(capsys, run)
  assert cli.main(["compress", f"--model_dir={run}", f"--output={tmp_path}/small", "--calibration_batches=2",
                   "--max_batches=1000", *flags]) == 0
  lines = capsys.readouterr().out.splitlines()
  table = {line[:12].strip(): line[12:].split() for line in lines[1:-1]}
  after = evaluated(capsys, tmp_path / "small")
  np.testing.assert_allclose([float(value) for value in table["loss"]], [before["loss"], after["loss"]], atol=2e-4)
  np.testing.assert_allclose([float(value) for value in table["bits/byte"]],
                             [before["bits_per_byte"], after["bits_per_byte"]], atol=2e-4)
  assert after["loss"] < worse * before["loss"] and after["step"] == before["step"] == 16
  assert float(re.search(r"\(([\d.]+) of", lines[-1])[1]) < share
  assert 0 <= float(table["KL, nats"][0]) < 0.5 and float(table["same top 1"][0].rstrip("%")) > 50


def test_a_compressed_model_generates_and_is_exported(small, tmp_path, capsys):
  assert cli.main(["generate", f"--model_dir={small}", "--prompt=memory ", "--max_tokens=8", "--temperature=0"]) == 0
  said = capsys.readouterr().out
  assert cli.main(["export", f"--model_dir={small}", f"--output={tmp_path}/files"]) == 0
  assert cli.main(["convert", "--from=safetensors", f"--input={tmp_path}/files", f"--model_dir={tmp_path}/back"]) == 0
  capsys.readouterr()
  assert cli.main(["generate", f"--model_dir={tmp_path}/back", "--prompt=memory ", "--max_tokens=8",
                   "--temperature=0"]) == 0
  assert capsys.readouterr().out == said


@pytest.mark.parametrize("form", ["LanguageModel.form=None", "Quantization.stored=False"])
def test_a_run_starts_from_integers(form, small, tmp_path, capsys):
  """Whole kernels, or such as are used rounded: the loss before the first step is that of the integers."""
  assert cli.main(["train", f"--gin_file={small}/config.gin", f"--model_dir={tmp_path}/run", f"--gin.{form}",
                   f"--gin.train.init_from='{small}'", "--gin.TRAIN_STEPS=2"]) == 0
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  first = next(line for line in lines if line["split"] == "validation" and line["step"] == 0)
  np.testing.assert_allclose(first["loss"], evaluated(capsys, small)["loss"], rtol=1e-3)


def test_zeros_survive_training_and_its_resumption(run, tmp_path, capsys):
  assert cli.main(["compress", f"--model_dir={run}", f"--output={tmp_path}/pruned", "--prune=magnitude:50%",
                   "--max_batches=0"]) == 0
  flags = [f"--model_dir={tmp_path}/run", "--gin.OPTIMIZER=@sparse()", "--gin.sparse.optimizer=@adamw()"]
  assert cli.main(["train", f"--gin_file={tmp_path}/pruned/config.gin", *flags, "--gin.TRAIN_STEPS=2",
                   f"--gin.train.init_from='{tmp_path}/pruned'"]) == 0
  assert cli.main(["train", *flags, "--gin.TRAIN_STEPS=4"]) == 0

  def kernels(directory):
    experiment = reading.saved_experiment(str(directory), data=False)
    _, params = experiment.restore_params(str(directory), Partitioner(data=1, num_devices=1))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params["layers"])]

  before, after = kernels(tmp_path / "pruned"), kernels(tmp_path / "run")
  assert any(np.mean(one == 0) > 0.4 for one in before)
  for one, other in zip(before, after):
    if np.mean(one == 0) > 0.4 and one.ndim > 2:
      np.testing.assert_array_equal(one == 0, other == 0)
      assert not np.array_equal(one, other)


def test_integers_are_not_trained(small, tmp_path, capsys):
  status, line = failure(capsys, "train", f"--gin_file={small}/config.gin", f"--model_dir={tmp_path}/run")
  assert status == 1 and "LanguageModel.form has integers, which no gradient moves: start a run from this one" in line
  assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("flags, status, message", [
    ([], 2, "nothing to do: give --quantize=int8, int4 or int8-all, or --prune=METHOD:AMOUNT, or both"),
    (["--quantize=int3"], 2, "invalid choice: 'int3'"),
    (["--prune=lottery:50%"], 2, "--prune=lottery:50%: 'lottery' is unknown: choose one of magnitude, wanda"),
    (["--prune=wanda"], 2, "--prune=wanda: '' is no sparsity: write a share such as 50%"),
    (["--prune=heads:2:4"], 2, "--prune=heads:2:4: heads go by a share, such as heads:25%"),
    (["--prune=experts:50%"], 1, "--prune=experts needs a mixture of experts, and this model has none"),
    (["--quantize=int8", "--calibrate=gptq"], 2, "--calibrate=gptq is for --quantize=int4"),
    (["--quantize=int8", "--split=nowhere"], 1, "nowhere"),
])
def test_mistakes_are_one_line(flags, status, message, run, tmp_path, capsys):
  found, line = failure(capsys, "compress", f"--model_dir={run}", f"--output={tmp_path}/small", *flags)
  assert found == status and message in line
  assert not (tmp_path / "small" / "config.gin").exists()


def test_neither_a_run_nor_integers_are_overwritten(run, small, tmp_path, capsys):
  status, line = failure(capsys, "compress", f"--model_dir={run}", f"--output={small}", "--quantize=int8")
  assert status == 1 and "has a run already (config.gin): choose another --output" in line
  status, line = failure(capsys, "compress", f"--model_dir={small}", f"--output={tmp_path}/smaller", "--quantize=int8")
  assert status == 1 and "is quantized already: compress the run that it was made of" in line
