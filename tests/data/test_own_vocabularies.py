"""Vocabulary classes of a user's own: the example of docs/vocabularies.md, and what is refused."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest
import seqio

from gpt4x import run_directory
from gpt4x.data import vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.vocabularies import saving
from gpt4x.errors import UserError

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "vocabularies.md"


@pytest.fixture(autouse=True)
def _registered_here(monkeypatch):
  monkeypatch.setattr(saving, "_OWN", {})


@pytest.fixture(name="example")
def _example(monkeypatch):
  code, = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
  names = {"__name__": "my_vocabulary"}
  exec(compile(code, str(PAGE), "exec"), names)
  return names["Characters"]


def test_the_example_encodes_and_is_kept(example, tmp_path):
  vocabulary = example("abc ")
  assert vocabulary.encode("a cab!") == [3, 6, 5, 3, 4, 2]
  assert vocabulary.decode([3, 6, 5, 1, 4]) == "a c"
  assert vocabulary.encode_tf("a cab!").numpy().tolist() == [3, 6, 5, 3, 4, 2]
  assert vocabulary.decode_tf(vocabulary.encode_tf("cab")).numpy() == b"cab"
  assert vocabularies.token_bytes(example("aé")).tolist() == [0, 0, 0, 1, 2]
  vocabularies.save(vocabulary, tmp_path)
  loaded = vocabularies.load(tmp_path)
  assert isinstance(loaded, example) and loaded.encode("a cab!") == vocabulary.encode("a cab!")
  assert vocabularies.spec(loaded) == vocabularies.spec(vocabulary) != vocabularies.spec(example("abd "))
  file = tmp_path / run_directory.OWN_VOCABULARY
  file.write_bytes(file.read_bytes() + b"d")
  with pytest.raises(UserError, match="vocabulary.bin is damaged"):
    vocabularies.load(tmp_path)


def test_data_for_a_run_is_compared_with_it(example, tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  vocabularies.save(example("abc "), tmp_path)
  own = vocabularies.load(tmp_path)
  for characters in ("abc ", "cab "):
    seqio.TaskRegistry.add("toy_own", source=seqio.FunctionDataSource(
        lambda split, shuffle_files: None, ["train"]), preprocessors=[],
                           output_features={"targets": seqio.Feature(example(characters))})
    try:
      if characters == "abc ":
        Dataset(DatasetConfig("toy_own", {"targets": 4}, 1), own)
      else:
        with pytest.raises(UserError, match="task toy_own has the vocabulary Characters .sha256 .*but the run was"):
          Dataset(DatasetConfig("toy_own", {"targets": 4}, 1), own)
    finally:
      seqio.TaskRegistry.remove("toy_own")


def test_a_directory_makes_nothing_be_imported(tmp_path, monkeypatch):
  """A class is found by its bare name among those that are registered, and nowhere else."""
  (tmp_path / "toy_trap.py").write_text("raise SystemExit('imported')\n")
  monkeypatch.syspath_prepend(tmp_path)
  for name in ("toy_trap", "toy_trap.Vocabulary", "PassThroughVocabulary", "FullCodepointVocabulary", "Characters"):
    (tmp_path / run_directory.VOCABULARY).write_text(json.dumps({"class": name, "sha256": ""}))
    with pytest.raises(UserError, match=f"is of the class {name}, which nothing here has registered: import"):
      vocabularies.load(tmp_path)
  assert "toy_trap" not in sys.modules


def test_what_cannot_be_kept_is_refused(example):
  class Unregistered(example):
    pass

  for vocabulary in (Unregistered("ab"), seqio.PassThroughVocabulary(5)):
    with pytest.raises(UserError, match=f"a {type(vocabulary).__name__} cannot be saved with a model: .*register"):
      vocabularies.spec(vocabulary)

  @vocabularies.register
  class OfText(example):
    def to_bytes(self):
      return "text"

  with pytest.raises(UserError, match="OfText.to_bytes gives a str: let it give bytes"):
    vocabularies.spec(OfText("ab"))

  class WrongSizes(example):
    def token_bytes(self):
      return np.ones(3)

  with pytest.raises(UserError, match=r"WrongSizes.token_bytes gives float64 \[3\]: .*each of the 5 ids"):
    vocabularies.token_bytes(WrongSizes("ab"))
  with pytest.raises(UserError, match="int cannot be registered"):
    vocabularies.register(int)
  with pytest.raises(UserError, match="UnigramVocabulary cannot be registered: .*to_bytes"):
    vocabularies.register(seqio.UnigramVocabulary)


def test_names_are_of_one_class_only(example, tmp_path):
  def named(name, module):
    return type(name, (example,), {"__module__": module})

  for name, module in ("ByteVocabulary", "my_module"), ("WordVocabulary", "my_module"), ("Characters", "other"):
    with pytest.raises(UserError, match=f"there is a vocabulary class {name} already"):
      vocabularies.register(named(name, module))
  old = example("ab")
  vocabularies.save(old, tmp_path)
  again = vocabularies.register(named("Characters", "my_vocabulary"))  # A notebook's cell, run once more.
  assert type(vocabularies.load(tmp_path)) is again and vocabularies.spec(old) == vocabularies.spec(again("ab"))
