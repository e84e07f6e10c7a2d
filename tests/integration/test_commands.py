"""The commands as a user gives them, right and wrong."""

import json
import os
import shutil

import numpy as np
import pytest

from gpt4x import cli
from gpt4x.training.metrics import read_metrics
from tests import html_pages
from tests.integration import corpus


@pytest.fixture(scope="module", name="text")
def _text(tmp_path_factory):
  return corpus.write(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="module", name="run")
def _run(text, tmp_path_factory):
  """A trained run whose directory has moved since: nothing of it may depend on where it was."""
  folder = tmp_path_factory.mktemp("runs")
  assert cli.main(corpus.flags(text, folder / "first", TRAIN_STEPS=16, EVAL_STEPS=None)) == 0
  shutil.move(folder / "first", folder / "second")
  return folder / "second"


def failure(capsys, *argv):
  """The exit status and the last line on standard error."""
  status = cli.main([str(arg) for arg in argv])
  lines = capsys.readouterr().err.splitlines()
  assert not [line for line in lines if "Traceback" in line]
  assert lines[-1].startswith("gpt4x: error: ")
  return status, lines[-1]


def test_train_leaves_what_it_promises(run):
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  train = [line for line in lines if line["split"] == "train"]
  validation = [line for line in lines if line["split"] == "validation"]
  assert [line["step"] for line in train] == list(range(1, 17)) and [line["step"] for line in validation] == [0, 16]
  assert {"loss", "accuracy", "steps_per_second", "tokens_per_second", "mfu"} <= train[-1].keys()
  assert all(0 <= line["input_wait"] < 1 for line in train)
  assert {"loss", "perplexity", "bits_per_byte", "accuracy"} <= validation[0].keys()
  assert validation[1]["bits_per_byte"] < validation[0]["bits_per_byte"]
  np.testing.assert_allclose(np.log(validation[0]["perplexity"]), validation[0]["loss"], rtol=1e-5)
  assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
  assert list(run.glob("events.out.tfevents.*"))


def test_eval_from_the_directory_alone(run, capsys):
  assert cli.main(["eval", f"--model_dir={run}"]) == 0
  printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
  last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
          if '"split": "validation"' in line][-1]
  assert printed["step"] == "16"
  for name in ("loss", "bits_per_byte", "accuracy"):
    np.testing.assert_allclose(float(printed[name]), last[name], rtol=1e-4)
  assert cli.main(["eval", f"--model_dir={run}", "--step=8"]) == 0
  assert dict(line.split() for line in capsys.readouterr().out.splitlines())["step"] == "8"


def test_a_setting_of_an_evaluation_is_told_with_its_place(run, capsys):
  status, line = failure(capsys, "eval", f"--model_dir={run}", "--gin.evaluate.max_batches=0")
  assert status == 2 and "--gin.evaluate.max_batches=0: evaluate.max_batches = 0 must be at least 1" in line


def test_generate_from_the_directory_alone(run, capsys):
  def generate(*flags):
    assert cli.main(["generate", f"--model_dir={run}", "--prompt=memöry ", "--max_tokens=40", *flags]) == 0
    return capsys.readouterr().out
  first = generate("--seed=1")
  assert first.startswith("memöry ") and len(first) > len("memöry \n")
  assert generate("--seed=1") == first
  assert generate("--seed=2") != first
  assert generate("--temperature=0", "--seed=1") == generate("--temperature=0", "--seed=2")


def test_generate_many_from_a_file(run, tmp_path, capsys):
  """Each object has what the prompt alone is continued with."""
  (tmp_path / "prompts.jsonl").write_text('{"prompt": "memöry "}\n{"prompt": "its past"}\n')
  flags = ["--seed=1", "--max_tokens=40"]
  assert cli.main(["generate", f"--model_dir={run}", f"--prompt_file={tmp_path}/prompts.jsonl", "--num_samples=2",
                   "--json", *flags]) == 0
  found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [(one["prompt"], one["sample"]) for one in found] == [
      ("memöry ", 0), ("memöry ", 1), ("its past", 0), ("its past", 1)]
  assert len({one["text"] for one in found}) == 4
  for one in found[::2]:
    assert len(one["tokens"]) == len(one["log_probs"]) and max(one["log_probs"]) < 0
    assert cli.main(["generate", f"--model_dir={run}", f"--prompt={one['prompt']}", *flags]) == 0
    assert capsys.readouterr().out == one["prompt"] + one["text"] + "\n"


def test_report_compares_with_compressors(run, capsys):
  assert cli.main(["report", f"--model_dir={run}"]) == 0
  printed = capsys.readouterr().out
  for words in ("bits per byte, step 0", "bits per byte, step 16", "gzip -9", "xz -9", "tokens/s", "MFU", "generate"):
    assert words in printed
  page = html_pages.check((run / "report.html").read_text())
  evaluations = [line for line in read_metrics(str(run)) if line["split"] == "validation"]
  numbers = [f"{line['bits_per_byte']:.3f}" for line in (evaluations[0], evaluations[-1])]
  assert all(words in page.text for words in [*numbers, "16 steps", "gzip -9"])
  assert page.tags["pre"] == 4 and page.tags["svg"] == 1 and "Drawn at temperature 0.9" in page.text
  assert (run / "loss.png").exists() and json.loads((run / "compressors.json").read_text())["bits_per_byte"]


def test_reports_samples(run, tmp_path, capsys):
  """Those of given prompts, the same each time; none on demand, or without a checkpoint."""
  copy = shutil.copytree(run, tmp_path / "run")
  report = ["report", f"--model_dir={copy}"]
  pages = []
  for _ in range(2):
    assert cli.main([*report, "--prompt=<b>memory", "--num_samples=2"]) == 0
    pages.append((copy / "report.html").read_text())
  assert pages[0] == pages[1] and html_pages.check(pages[0]).text.count("<b>memory") == 2
  assert cli.main([*report, "--num_samples=0"]) == 0
  assert "Samples" not in html_pages.check((copy / "report.html").read_text()).text
  shutil.rmtree(copy / "checkpoints")
  capsys.readouterr()
  assert cli.main(report) == 0
  assert "report.html has no samples: " in capsys.readouterr().err
  assert html_pages.check((copy / "report.html").read_text()).tags["pre"] == 1


def test_report_passes_over_damaged_lines(run, tmp_path, capsys):
  """And gives the figures of the others."""
  copy = shutil.copytree(run, tmp_path / "run")
  assert cli.main(["report", f"--model_dir={run}"]) == 0
  whole = [line for line in capsys.readouterr().out.splitlines() if "step" in line or "-9" in line]
  metrics = copy / "metrics.jsonl"
  metrics.write_bytes(b'{"step" 0}\n\xff\n' + metrics.read_bytes())
  assert cli.main(["report", f"--model_dir={copy}"]) == 0
  out, err = capsys.readouterr()
  assert all(line.split("│")[2].strip() in out for line in whole if "│" in line)
  assert f"line 1 of {metrics} is no line of metrics" in err and "line 2 of" in err


@pytest.mark.parametrize("bindings, status, words", [
    ({"TransformerConfig.num_layer": 2}, 2, ["num_layer", "did you mean num_layers?"]),
    ({"TRAIN_STEP": 10}, 2, ["TRAIN_STEP", "did you mean TRAIN_STEPS?"]),
    ({"MIXTURE_OR_TASK_NAME": "local_text_byte"}, 1, ["'local_text_byte'", "local_text_bytes"]),
    ({"BATCH_SIZE": 12}, 1, ["BATCH_SIZE = 12 does not divide", "8 device(s)"]),
    ({"train.microbatches": 3}, 1, ["BATCH_SIZE = 8 does not divide over 3 microbatch(es)"]),
    ({"Partitioner.num_devices": 0}, 2, ["--gin.Partitioner.num_devices=0: ", "must be a whole number from 1 on"]),
    ({"BATCH_SIZE": 0}, 2, ["--gin.BATCH_SIZE=0: DatasetConfig.batch_size = 0 must be at least 1"]),
    ({"train.eval_split": 3}, 2, ["--gin.train.eval_split=3: train.eval_split = 3 must be a string in quotes"]),
    ({"Partitioner.tensor": 16}, 1, ["tensor=16 does not fit the 8 device(s)"]),
    ({"TransformerConfig.num_heads": 3}, 2, ["embed_dim = 8 does not divide into num_heads = 3"]),
    ({"TransformerConfig.vocab_size": 100}, 1, ["vocab_size = 100 is smaller than the 259 ids"]),
    ({"LocalText.files": "/nowhere/*.txt"}, 1, ["/nowhere/*.txt"]),
    ({"adamw.learning_rate": 1e30, "train.clip_norm": None}, 1, ["not both finite", "lower the learning rate"]),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else None)
def test_mistakes(text, tmp_path, capsys, bindings, status, words):
  found, line = failure(capsys, *corpus.flags(text, tmp_path / "run", **bindings))
  assert found == status
  for word in words:
    assert word in line


def test_missing_gin_file(tmp_path, capsys):
  status, line = failure(capsys, "train", "--gin_file=experiments/stdlib_tinny.gin", f"--model_dir={tmp_path}/run")
  assert status == 2 and "did you mean experiments/stdlib_tiny.gin?" in line


def test_unknown_flag(tmp_path, capsys):
  status, line = failure(capsys, "train", "--gin_fil=a.gin", f"--model_dir={tmp_path}/run")
  assert status == 2 and "did you mean --gin_file?" in line


@pytest.mark.parametrize("content, words", [(b"", "empty"), (b"good \xff bad", "byte 5")], ids=["empty", "not UTF-8"])
def test_bad_text(tmp_path, capsys, content, words):
  (tmp_path / "bad.txt").write_bytes(content)
  status, line = failure(capsys, *corpus.flags(tmp_path, tmp_path / "run"))
  assert status == 1 and words in line and "bad.txt" in line


def test_checkpoint_of_another_shape(text, run, tmp_path, capsys):
  shutil.copytree(run, tmp_path / "run")
  status, line = failure(capsys, *corpus.flags(text, tmp_path / "run", TransformerConfig__mlp_dim=24))
  assert status == 1 and "mlp/wi is float32[1, 8, 16] in the checkpoint and float32[1, 8, 24]" in line


def test_another_batch_size(text, run, tmp_path, capsys):
  shutil.copytree(run, tmp_path / "run")
  status, line = failure(capsys, *corpus.flags(text, tmp_path / "run", BATCH_SIZE=16))
  assert status == 1 and "memory/" in line and "[1, 8, 8, 8] in the checkpoint" in line


def test_no_run(tmp_path, capsys):
  for command in (["eval"], ["generate", "--prompt=a"], ["report"]):
    status, line = failure(capsys, *command, f"--model_dir={tmp_path}")
    assert status == 2 and "no run in" in line


def test_unwritable_model_directory(text, tmp_path, capsys):
  (tmp_path / "file").write_text("in the way")
  status, line = failure(capsys, *corpus.flags(text, tmp_path / "file"))
  assert status == 1 and "cannot be written" in line


def test_full_disk_keeps_what_was_saved(text, tmp_path, capsys, monkeypatch):
  """A disk that fills up while step 16 is written."""
  from gpt4x.checkpoints import manager
  write_record = manager.Checkpoints._write_record

  def write_or_fail(self):
    if self._pending[0] == 16:
      raise OSError(28, os.strerror(28))
    write_record(self)

  monkeypatch.setattr(manager.Checkpoints, "_write_record", write_or_fail)
  status, line = failure(capsys, *corpus.flags(text, tmp_path / "run"))
  assert status == 1 and "no space left on device" in line and "earlier checkpoints are untouched" in line
  monkeypatch.undo()
  assert (tmp_path / "run" / "checkpoints" / "8").exists()
  assert cli.main(corpus.flags(text, tmp_path / "run", TRAIN_STEPS=16)) == 0


def test_starting_from_another_run_s_parameters_with_a_profile(text, run, tmp_path):
  flags = corpus.flags(text, tmp_path / "run", train__init_from=str(run), TRAIN_STEPS=2, EVAL_STEPS=None)
  assert cli.main([*flags, "--profile_steps=0:1"]) == 0
  validation = lambda folder: [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
                               if '"split": "validation"' in line]
  assert validation(tmp_path / "run")[0] == validation(run)[-1]
  assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
