import dataclasses

import gin
import pytest
import seqio

from gpt4x import configuration
from gpt4x.data import python_stdlib, vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401  Registers them.

CONFIGS = configuration.SHIPPED / "data"


@pytest.fixture(autouse=True)
def _data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))


def _targets(name, split="train"):
  dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split=split, shuffle=False)
  return [example["targets"].tolist() for example in dataset.as_numpy_iterator()]


def test_stdlib_bytes_are_whole_documents(tmp_path, monkeypatch):
  texts = {f"{i}.py": f"x = {i}\n" * 50 for i in range(400)}
  for name, text in texts.items():
    (tmp_path / name).write_text(text)
  config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
  monkeypatch.setattr(config, "root", tmp_path)
  expected = [[3 + byte for byte in text.encode()] + [1]
              for name, text in texts.items() if python_stdlib.split_of(name) == "train"]
  assert sorted(_targets("stdlib_bytes")) == sorted(expected)


def test_vocabulary_from_one_task_serves_the_other(tmp_path):
  texts = ["".join(f"{word} {i}\n" for i in range(300)) for word in ("hello", "  världen", "\u2581\t")]
  for i, text in enumerate(texts):
    (tmp_path / f"{i}.txt").write_text(text)
  gin.parse_config([f"LocalText.files = '{tmp_path}/?.txt'", f"LocalText.validation_files = '{tmp_path}/2.txt'"])
  with pytest.raises(UserError, match="--task=local_text_bytes --size=4096 --output=local_text_spm$"):
    _targets("local_text_spm")
  path = vocabularies.train_from_task("local_text_bytes", 300, "local_text_spm")
  assert path == tmp_path / "data" / "vocabularies" / "local_text_spm.model"
  vocabulary = seqio.get_mixture_or_task("local_text_spm").output_features["targets"].vocabulary
  assert vocabulary.vocab_size == 300
  for split, expected in (("train", texts[:2]), ("validation", texts[2:])):
    ids = _targets("local_text_spm", split)
    assert [vocabulary.decode(document) for document in ids] == expected
    assert [document.index(1) for document in ids] == [len(document) - 1 for document in ids]
  assert len(_targets("local_text_spm")[0]) < len(_targets("local_text_bytes")[0])


def test_words_of_lines(tmp_path):
  (tmp_path / "a.txt").write_text(" = A title = \n\n the cat , the dog \n")
  (tmp_path / "b.txt").write_text("a dog\n")
  gin.parse_config([f"LocalText.files = '{tmp_path}/a.txt'", f"LocalText.validation_files = '{tmp_path}/b.txt'"])
  with pytest.raises(UserError, match="LocalText.words is not set"):
    seqio.get_mixture_or_task("local_text_words").output_features["targets"].vocabulary.encode("the")
  vocabularies.write_words(["<eos>", "the", "<unk>", "=", ",", "dog"], tmp_path)
  gin.parse_config(f"LocalText.words = '{tmp_path}/words.txt'")
  assert _targets("local_text_words") == [[3, 2, 2, 3, 0, 0, 1, 2, 4, 1, 5, 0]]
  assert _targets("local_text_words", "validation") == [[2, 5, 0]]
  config = DatasetConfig("local_text_words", {"targets": 8}, 8)
  assert [document.tolist() for document in Dataset(config).documents("validation")] == [[2, 5, 0]]
  with pytest.raises(UserError, match="text for id 0, which 'lm' takes for padding"):
    Dataset(dataclasses.replace(config, feature_converter="lm"))
  vocabularies.write_words(["<eos>", "dog"], tmp_path)  # Other words, other tokens.
  with pytest.raises(UserError, match="^task local_text_words, split validation: the word 'a' is not in .*no <unk>"):
    list(Dataset(config).documents("validation"))


def test_vocabulary_of_an_unknown_task():
  with pytest.raises(UserError, match="unknown task or mixture 'stdlib_byte'.*stdlib_bytes"):
    vocabularies.train_from_task("stdlib_byte", 300, "x")


@pytest.mark.parametrize("name", ["stdlib_bytes", "stdlib_spm", "local_text_bytes", "local_text_spm",
                                  "local_text_words"])
def test_gin_file_names_its_task(name):
  gin.parse_config_file(str(CONFIGS / f"{name}.gin"))
  assert gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value") == name in seqio.TaskRegistry.names()
