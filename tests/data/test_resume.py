"""A position in the data is known by the content of the data, however the run came by it."""

import functools
import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
import seqio

from gpt4x.data import example_rows, vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.preprocessors import tokenize
from gpt4x.errors import UserError

LENGTHS = {"stream": {"targets": 8}, "lm": {"targets": 8}, "prefix_lm": {"inputs": 4, "targets": 4}}
PREPROCESSORS = """
import seqio
def features(dataset, names):
  return dataset.map(lambda document: {name: document["text"] for name in names})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vocabularies")
  for name, text in ("one", "the cat sat on the mat"), ("other", "a dog lay under a tree"):
    vocabularies.train_sentencepiece([text * 20], 280, folder / f"{name}.model")
  return folder


@pytest.fixture
def start(tmp_path, monkeypatch, models):
  """Starts a run anew, as a new process would: the iterator over what the folder holds then."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  (tmp_path / "toy_prepare.py").write_text(PREPROCESSORS)
  (tmp_path / "text").mkdir()
  for i in range(12):
    (tmp_path / "text" / f"{i}.txt").write_text(f"{i} the cat sat on a dog\n")

  def run(converter, folder="text", vocabulary="one"):
    sys.modules.pop("toy_prepare", None)
    prepare = importlib.import_module("toy_prepare")
    names = list(LENGTHS[converter])
    feature = seqio.Feature(vocabularies.LosslessSentencePieceVocabulary(models / f"{vocabulary}.model"), add_eos=False)
    task = seqio.Task(
        "toy_resume", LocalTextSource(LocalText(f"{tmp_path}/{folder}/*.txt", f"{tmp_path}/{folder}/11.txt")),
        output_features=dict.fromkeys(names, feature),
        preprocessors=[functools.partial(prepare.features, names=names), tokenize])
    seqio.TaskRegistry.add_provider("toy_resume", task)
    try:
      return Dataset(DatasetConfig("toy_resume", LENGTHS[converter], 2, converter)).train()
    finally:
      seqio.TaskRegistry.remove("toy_resume")

  return run


def state_after_three(batches):
  for _ in range(3):
    next(batches)
  return json.loads(json.dumps(batches.get_state()))


def touch(folder):
  os.utime(folder / "text" / "3.txt", ns=(5, 5))
  return {}


def move(folder):
  shutil.copytree(folder / "text", folder / "elsewhere")
  shutil.rmtree(folder / "text")
  return {"folder": "elsewhere"}


def comment(folder):
  (folder / "toy_prepare.py").write_text("# Says more.\n" + PREPROCESSORS)
  return {}


def rewrite(folder):
  (folder / "text" / "3.txt").write_text("3 the dog sat on a cat\n")
  return {}


def retrain(folder):
  del folder
  return {"vocabulary": "other"}


@pytest.mark.parametrize("converter", LENGTHS)
@pytest.mark.parametrize("change", [touch, move, comment])
def test_another_way_to_the_same_data_resumes(start, tmp_path, capfd, converter, change):
  first = start(converter)
  state, expected = state_after_three(first), [next(first) for _ in range(3)]
  restored = start(converter, **change(tmp_path))
  restored.set_state(state)
  assert "earlier version" not in capfd.readouterr().err
  for batch in expected:
    np.testing.assert_equal(next(restored), batch)


@pytest.mark.parametrize("converter", LENGTHS)
@pytest.mark.parametrize("change", [rewrite, retrain])
def test_other_data_is_refused(start, tmp_path, converter, change):
  state = state_after_three(start(converter))
  what = "fingerprint of tokens" if converter == "stream" else "content of the tasks' tokens"
  with pytest.raises(UserError, match=f"has {what}.* but this run has .*change that back") as error:
    start(converter, **change(tmp_path)).set_state(state)
  assert "\n" not in str(error.value)


def add(folder):
  (folder / "text" / "new.txt").write_text("a cat more\n")
  return {}


def remove(folder):
  (folder / "text" / "4.txt").unlink()
  (folder / "text" / "5.txt").unlink()
  return {}


@pytest.mark.parametrize("converter", ["stream", "prefix_lm"])
@pytest.mark.parametrize("change, known", [
    (rewrite, "text/3.txt is written"), (add, "text/new.txt is new"), (remove, "text/4.txt is gone, as are 1 more"),
    (retrain, "toy_resume/train has changed")])
def test_a_refusal_names_task_split_and_files(start, tmp_path, converter, change, known):
  state = state_after_three(start(converter))
  changed = change(tmp_path)
  with pytest.raises(UserError, match="toy_resume/train has changed") as error:
    start(converter, **changed).set_state(state)
  assert known in str(error.value)
  numbers = {add: "11 {0}, now 12", remove: "11 {0}, now 9"}.get(change, "")
  assert numbers.format("documents" if converter == "stream" else "examples") in str(error.value)
  # Without the old tokens, the task and its split are still known; and an older checkpoint knows nothing of them.
  for path in [*tmp_path.glob("data/tokens/*"), *tmp_path.glob("data/content/*")]:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.raises(UserError, match="toy_resume/train has changed"):
    start(converter, **changed).set_state(state)
  del state["tasks"]
  with pytest.raises(UserError, match="but this run has .* [(]of toy_resume/train[)]: change"):
    start(converter, **changed).set_state(state)


@pytest.mark.parametrize("converter", ["stream", "lm"])
def test_a_position_of_before_tasks_were_named_goes_on_in_silence(start, capfd, converter):
  first = start(converter)
  state = state_after_three(first)
  del state["tasks"]
  restored = start(converter)
  restored.set_state(state)
  assert "earlier version" not in capfd.readouterr().err
  assert np.array_equal(next(restored)["decoder_target_tokens"], next(first)["decoder_target_tokens"])


@pytest.mark.parametrize("converter", ["lm", "prefix_lm"])
def test_a_second_start_does_not_pass_over_the_data(start, monkeypatch, converter):
  state = start(converter).get_state()
  run = example_rows.examples

  def examples(*args, shuffle, **kwargs):
    assert shuffle, "passes over the data once more"
    return run(*args, shuffle=shuffle, **kwargs)

  monkeypatch.setattr(example_rows, "examples", examples)
  assert start(converter).get_state() == state


@pytest.mark.parametrize("converter", ["lm", "prefix_lm"])
def test_a_position_of_before_content_was_saved_is_accepted(start, capfd, converter):
  first = start(converter)
  state = state_after_three(first)
  del state["content"], state["rates"]
  restored = start(converter)
  restored.set_state(state | {"fingerprint": "0123456789abcdef"})
  assert capfd.readouterr().err.count("warning: the checkpoint is of an earlier version") == 1
  assert np.array_equal(next(restored)["decoder_target_tokens"], next(first)["decoder_target_tokens"])
  assert "content" in restored.get_state() and "fingerprint" not in restored.get_state()
