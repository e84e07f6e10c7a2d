"""A run is read with the vocabulary that it keeps, whatever becomes of the one that it was trained with."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import seqio

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.data import data_dir, vocabularies
from gpt4x.errors import UserError
from gpt4x.evaluation.likelihood import evaluate
from gpt4x.training.loop import train
from tests.integration import corpus

SPM = {"MIXTURE_OR_TASK_NAME": "local_text_spm", "TransformerConfig__vocab_size": 300, "EVAL_STEPS": None}


@pytest.fixture(name="text", scope="module")
def _text(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  corpus.write(folder / "text")
  (folder / "other").mkdir()
  (folder / "other" / "0.txt").write_text("tension tempts sentences; remembers yesterday's payments and asylum. " * 30)
  return folder


@pytest.fixture(name="run", scope="module")
def _run(text, tmp_path_factory):
  """A run of 8 steps on a vocabulary of its text; since then, one of other text has taken the name."""
  folder = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(folder / "data"))
    make_vocabulary(text / "text")
    assert cli.main(corpus.flags(text / "text", folder / "run", TRAIN_STEPS=8, **SPM)) == 0
    make_vocabulary(text / "other")
    yield folder / "run"


def make_vocabulary(folder):
  assert cli.main(["vocabulary", "--task=local_text_bytes", "--size=300", "--output=local_text_spm",
                   f"--gin.LocalText.files='{folder}/*.txt'"]) == 0


def last_loss(run):
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  return [line["loss"] for line in lines if line["split"] == "validation"][-1]


def evaluated(run, capsys):
  assert cli.main(["eval", f"--model_dir={run}"]) == 0
  return float(dict(line.split() for line in capsys.readouterr().out.splitlines())["loss"])


def hashes(*directories):
  return [vocabularies.spec(vocabularies.load(directory))["sha256"][:12] for directory in directories]


def test_eval_and_report_read_what_the_run_keeps(run, capsys, tmp_path, monkeypatch):
  np.testing.assert_allclose(evaluated(run, capsys), last_loss(run), rtol=1e-4)
  of_no_run = dataclasses.replace(reading.saved_experiment(str(run)), vocabulary=None)
  np.testing.assert_allclose(evaluate(str(run), of_no_run)["loss"], last_loss(run), rtol=1e-4)
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "new machine"))
  np.testing.assert_allclose(evaluated(run, capsys), last_loss(run), rtol=1e-4)
  assert cli.main(["report", f"--model_dir={run}"]) == 0
  assert not (data_dir() / "vocabularies").exists()


@pytest.mark.parametrize("from_directory", [True, False], ids=["directory", "experiment"])
def test_a_run_goes_on_with_what_it_keeps(run, text, tmp_path, from_directory):
  shutil.copytree(run, tmp_path / "run")
  flags = (["train", f"--model_dir={tmp_path}/run", "--gin.TRAIN_STEPS=16"] if from_directory
           else corpus.flags(text / "text", tmp_path / "run", TRAIN_STEPS=16, **SPM))
  assert cli.main(flags) == 0
  assert last_loss(tmp_path / "run") < last_loss(run)
  assert hashes(tmp_path / "run") == hashes(run)


def test_a_new_run_takes_what_the_name_stands_for_and_starts_from_no_other(run, text, tmp_path, capsys):
  vocabularies.save(vocabularies.LosslessSentencePieceVocabulary("local_text_spm"), tmp_path / "now")
  flags = corpus.flags(text / "other", tmp_path / "run", train__init_from=str(run), **SPM)
  assert cli.main(flags) == 1
  line = capsys.readouterr().err.splitlines()[-1]
  for part in (str(data_dir()), f"{run}/sentencepiece.model", *hashes(tmp_path / "now", run), "local_text_spm"):
    assert part in line
  assert not (tmp_path / "run" / "vocabulary.json").exists()


def test_the_data_of_another_vocabulary_is_refused(run, text, tmp_path, capsys):
  """A run of pieces, asked for bytes; by eval and by the loop."""
  for command in (["eval", f"--model_dir={run}", "--gin.MIXTURE_OR_TASK_NAME='local_text_bytes'"],
                  corpus.flags(text / "text", run, TRAIN_STEPS=16, **{
                      **SPM, "MIXTURE_OR_TASK_NAME": "local_text_bytes"})):
    assert cli.main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "task local_text_bytes has the vocabulary ByteVocabulary (extra_ids 0), but the run was trained with" in line
    assert f"{run}/sentencepiece.model" in line and hashes(run)[0] in line


def test_a_vocabulary_that_cannot_be_kept_is_refused_before_tokenizing(text, tmp_path, capfd):
  config = reading.new_run([str(corpus.GIN_FILE)], [
      f"LocalText.files='{text}/text/*.txt'", "MIXTURE_OR_TASK_NAME='toy_unkept'"])
  task = seqio.get_mixture_or_task("local_text_bytes")
  seqio.TaskRegistry.add_provider("toy_unkept", task.replace(
      name="toy_unkept", output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(259))}))
  try:
    with pytest.raises(UserError, match="a PassThroughVocabulary cannot be saved with a model"):
      train(str(tmp_path / "run"), config)
  finally:
    seqio.TaskRegistry.remove("toy_unkept")
  assert "tokenizing" not in capfd.readouterr().err and not (tmp_path / "run").exists()
