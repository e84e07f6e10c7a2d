"""Tokens of a source that does not tell when its data changes: new data is seen, or a line says what is used."""

import random
import re

import pytest
import seqio
import tensorflow as tf

from gpt4x.data import fingerprint, source_content, task_examples, tokenization
from gpt4x.data.dataset import Dataset, DatasetConfig

FEATURES = {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)}


@pytest.fixture(name="file")
def _file(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  task_examples.say_once.cache_clear()  # As in a new process.
  return tmp_path / "lines.txt"


@pytest.fixture(name="task")
def _task(file):
  """A task whose function opens a file, as users write them."""
  def lines(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices({"targets": file.read_text().splitlines()})

  seqio.TaskRegistry.add("toy_lines", source=seqio.FunctionDataSource(lines, splits=("train",)),
                         preprocessors=[seqio.preprocessors.tokenize], output_features=FEATURES)
  yield seqio.get_mixture_or_task("toy_lines")
  seqio.TaskRegistry.remove("toy_lines")


def documents(task):
  store = tokenization.open_or_build(task, "train")
  return [FEATURES["targets"].vocabulary.decode(tokens.tolist()) for tokens in store]


def test_an_edit_makes_new_tokens(task, file, capfd):
  for text in ("one\ntwo", "one\ntwp", "one\ntwp\nthree", "two\none"):
    file.write_text(text)
    assert sorted(documents(task)) == sorted(text.splitlines())
    assert documents(task) and "using" not in capfd.readouterr().err  # All of it was read again, so nothing is to say.


def test_behind_what_is_read_again_a_line_says_which_tokens_are_used(task, file, capfd, monkeypatch):
  monkeypatch.setattr(source_content, "MOST_EXAMPLES", 3)
  file.write_text("1\n2\n3\n4\n5")
  documents(task)
  capfd.readouterr()
  file.write_text("1\n2\n3\n4\nFIVE")
  assert documents(task)[-1] == "5"
  line, = capfd.readouterr().err.splitlines()
  assert re.fullmatch(r"gpt4x: using the tokens of toy_lines/train made on 20\d\d-\d\d-\d\d, which would not follow a"
                      r" change behind its first 3 examples: if there was one, gpt4x cache"
                      r" --remove='toy_lines-train-[0-9a-f]{16}'", line)
  documents(task)
  assert not capfd.readouterr().err  # Once is enough.
  file.write_text("1\n2\nTHREE\n4\n5")
  assert documents(task)[2] == "THREE"


def test_bytes_are_limited_too(task, file, monkeypatch):
  monkeypatch.setattr(source_content, "MOST_BYTES", 100)
  file.write_text("\n".join(["x" * 60] * 5))
  assert source_content.read_content(task, "train").unseen == "behind its first 2 examples"


@pytest.mark.parametrize("most", [3, 1000])
def test_a_source_without_order_keeps_its_tokens(file, capfd, monkeypatch, most):
  monkeypatch.setattr(source_content, "MOST_EXAMPLES", most)
  chance = random.Random(0)

  def lines(split, shuffle_files):
    del split, shuffle_files
    texts = file.read_text().splitlines()
    return tf.data.Dataset.from_tensor_slices({"targets": chance.sample(texts, len(texts))})

  file.write_text("\n".join(map(str, range(40))))
  task = seqio.Task("toy_chance", seqio.FunctionDataSource(lines, splits=("train",)), FEATURES,
                    [seqio.preprocessors.tokenize])
  first = documents(task)
  capfd.readouterr()
  assert documents(task) == first
  assert ("a source that has another order each time" in capfd.readouterr().err) == (most == 3)


def test_sources_that_tell_their_changes_are_not_read(monkeypatch, tmp_path):
  monkeypatch.setattr(source_content, "read_content", lambda *_: pytest.fail("reads the source"))
  (tmp_path / "a.txt").write_text("one")
  task = seqio.Task("toy_file", seqio.TextLineDataSource({"train": f"{tmp_path}/a.txt"}), FEATURES, [])
  assert fingerprint.identify(task, "train")[1] == ""


def test_what_is_known_of_examples_follows_too(task, file, capfd, monkeypatch):
  def start():
    task_examples.say_once.cache_clear()
    return Dataset(DatasetConfig("toy_lines", {"targets": 4}, 2, "lm")).train().get_state()["content"]

  file.write_text("1\n2\n3\n4\n5")
  first = start()
  file.write_text("1\n2\n3\n4\n6")
  assert start() != first
  monkeypatch.setattr(source_content, "MOST_EXAMPLES", 3)
  first = start()
  capfd.readouterr()
  file.write_text("1\n2\n3\n4\n7")
  assert start() == first
  assert re.search("using what is known of toy_lines/train made on 20.*: if there was one, gpt4x cache --remove='toy_",
                   capfd.readouterr().err)
