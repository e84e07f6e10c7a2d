"""Data for a run is encoded with the vocabulary that the run keeps, or refused."""

import re
import shutil

import numpy as np
import pytest
import sentencepiece
import seqio

from gpt4x.data import vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.preprocessors import text_to_targets, tokenize
from gpt4x.data.vocabularies import LosslessSentencePieceVocabulary, WordVocabulary
from gpt4x.errors import UserError

TEXT = "the cat sat on the mat, catch it"
PIECES = {"first": "the cat sat on the mat ", "second": "catch that other cattle ", "third": "mat at hat sat flat "}


@pytest.fixture(name="data", autouse=True)
def _data(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  (tmp_path / "text").mkdir()
  (tmp_path / "text" / "train.txt").write_text("the cat\n")
  (tmp_path / "text" / "validation.txt").write_text(TEXT)
  return tmp_path


@pytest.fixture(name="models", scope="module")
def _models(tmp_path_factory):
  folder = tmp_path_factory.mktemp("models")
  for name, text in PIECES.items():
    vocabularies.train_sentencepiece([text * 40], 270, folder / f"{name}.model")
  return folder


@pytest.fixture(name="register")
def _register(data):
  """Registers a task or a mixture, and takes it back."""
  added = []

  def register(vocabulary, name="toy_settled"):
    added.append((seqio.TaskRegistry, name))
    return seqio.TaskRegistry.add(
        name, source=LocalTextSource(LocalText(f"{data}/text/train.txt", f"{data}/text/validation.txt")),
        preprocessors=[text_to_targets, tokenize],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=False)})

  register.mixture = lambda name, *args: (added.append((seqio.MixtureRegistry, name)),
                                          seqio.MixtureRegistry.add(name, *args))[1]
  yield register
  for registry, name in added:
    registry.remove(name)


def put(models, name, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(models / f"{name}.model", path)


def saved(models, name, directory, cls=LosslessSentencePieceVocabulary):
  """The vocabulary of a run that was trained with a model."""
  vocabularies.save(cls(str(models / f"{name}.model")), directory)
  return vocabularies.load(directory)


def tokens(own=None, name="toy_settled"):
  dataset = Dataset(DatasetConfig(name, {"targets": 64}, 1), own)
  document, = dataset.documents("validation")
  assert dataset.vocabulary.decode(document.tolist()) == TEXT
  return document.tolist()


def expected(models, name):
  return sentencepiece.SentencePieceProcessor(model_file=str(models / f"{name}.model")).EncodeAsIds(TEXT)


def test_two_runs_of_one_name_in_one_process(data, models, register):
  """The shared file is a third by now, then gone; each run has its own tokens, twice."""
  register(LosslessSentencePieceVocabulary("toy"))
  shared = data / "data" / "vocabularies" / "toy.model"
  runs = {name: saved(models, name, data / name) for name in ("first", "second")}
  assert expected(models, "first") != expected(models, "second")
  put(models, "third", shared)
  for _ in range(2):
    for name, own in runs.items():
      assert tokens(own) == expected(models, name)
    if shared.exists():
      assert tokens() == expected(models, "third")
      shared.unlink()
  with pytest.raises(UserError, match="gpt4x vocabulary --task=TASK --size=4096 --output=toy$"):
    tokens()


def test_a_run_that_goes_on_finds_the_tokens_it_made(data, models, register, capfd):
  put(models, "first", data / "data" / "vocabularies" / "toy.model")
  register(LosslessSentencePieceVocabulary("toy"))
  tokens()
  assert "tokenizing" in capfd.readouterr().err
  tokens(saved(models, "first", data / "run"))
  assert "tokenizing" not in capfd.readouterr().err


@pytest.mark.parametrize("cls", [LosslessSentencePieceVocabulary, seqio.SentencePieceVocabulary])
def test_a_path_that_is_named_is_compared(data, models, register, cls):
  register(cls(str(data / f"{cls.__name__}.model")))  # seqio knows models by path in a process.
  path = data / f"{cls.__name__}.model"
  own = saved(models, "first", data / "run", cls)
  assert tokens(own) == expected(models, "first")  # Gone: the run's own.
  put(models, "second", path)
  theirs, mine = (vocabularies.spec(cls(str(models / f"{name}.model")))["sha256"][:12] for name in ("second", "first"))
  with pytest.raises(UserError) as error:
    tokens(own)
  kept = f"{data}/run/sentencepiece.model"
  assert re.search(f"task toy_settled has the vocabulary .*{path} .*{theirs}.* but the run was trained with .*{kept} .*"
                   f"{mine}.*: give the task that one", str(error.value))
  assert "\n" not in str(error.value)


def test_the_same_content_elsewhere_is_the_same(data, models, register):
  put(models, "first", data / "elsewhere.model")
  register(LosslessSentencePieceVocabulary(data / "elsewhere.model"))
  assert tokens(saved(models, "first", data / "run")) == expected(models, "first")


@pytest.mark.parametrize("own", [seqio.ByteVocabulary(), seqio.ByteVocabulary(3)], ids=["bytes", "extra ids"])
@pytest.mark.parametrize("named", [LosslessSentencePieceVocabulary("toy"), seqio.ByteVocabulary(2)],
                         ids=["pieces", "bytes"])
def test_another_class_or_size_is_refused(data, models, register, own, named):
  put(models, "first", data / "data" / "vocabularies" / "toy.model")
  register(named)
  with pytest.raises(UserError, match=rf"but the run was trained with ByteVocabulary \(extra_ids {own.extra_ids}\)"):
    tokens(own)


def test_data_holds_its_vocabulary(data, models, register):
  """The file is replaced between the making of the data and its reading."""
  path = data / "data" / "vocabularies" / "toy.model"
  put(models, "first", path)
  register(LosslessSentencePieceVocabulary("toy"))
  dataset = Dataset(DatasetConfig("toy_settled", {"targets": 64}, 1))
  put(models, "second", path)
  document, = dataset.documents("validation")
  assert document.tolist() == expected(models, "first") == dataset.vocabulary.encode(TEXT)
  assert tokens() == expected(models, "second")


def test_words_are_the_runs_own(data, register):
  register(WordVocabulary())
  words = [*TEXT.split(), "<unk>"]
  vocabularies.write_words(list(dict.fromkeys(words)), data / "run")
  vocabularies.save(WordVocabulary(data / "run" / "words.txt"), data / "run")
  own = vocabularies.load(data / "run")
  shutil.rmtree(data / "run")
  document, = Dataset(DatasetConfig("toy_settled", {"targets": 64}, 1), own).documents("validation")
  assert document.tolist() == [list(dict.fromkeys(words)).index(word) for word in TEXT.split()]
  with pytest.raises(UserError, match="LocalText.words is not set"):
    tokens()


def test_mixtures_keep_their_tasks_rates_and_sampling(data, models, register):
  class Mixture(seqio.Mixture):
    pass

  first = register(LosslessSentencePieceVocabulary("toy", "one_task"), "toy_one")
  second = register(LosslessSentencePieceVocabulary("toy", "another_task"), "toy_two")
  register.mixture("toy_inner", [("toy_one", 1), ("toy_two", 3)])
  by_name = lambda task: {"toy_one": 2, "toy_two": 6}[task.name]
  mixture = register.mixture("toy_outer", [("toy_inner", 4.0), ("toy_one", by_name)], None, Mixture)
  own = saved(models, "first", data / "run")
  dataset = Dataset(DatasetConfig("toy_outer", {"targets": 64}, 1), own)
  settled = dataset.provider
  assert type(settled) is Mixture and settled.name == "toy_outer" and settled._sample_fn is mixture._sample_fn
  assert [task.name for task in settled.tasks] == ["toy_one", "toy_two"]  # Each once, though one is there twice.
  assert [settled.get_rate(task) for task in settled.tasks] == [mixture.get_rate(first), mixture.get_rate(second)]
  assert settled.total_rate == mixture.total_rate
  assert [document.tolist() for document in dataset.documents("validation")] == [expected(models, "first")] * 2
  batch = next(Dataset(DatasetConfig("toy_outer", {"targets": 64}, 2, "lm"), own).train())
  assert np.unique(batch["decoder_target_tokens"]).size > 1
  # What is registered is as it was.
  assert seqio.get_mixture_or_task("toy_outer") is mixture and mixture.tasks == [first, second]
  with pytest.raises(UserError, match="no vocabulary at"):
    _ = first.output_features["targets"].vocabulary.vocab_size


def test_tasks_of_one_vocabulary_under_two_paths_mix(data, models, register):
  for name, path in ("toy_one", data / "a.model"), ("toy_two", data / "b.model"):
    put(models, "first", path)
    register(LosslessSentencePieceVocabulary(path), name)
  register.mixture("toy_both", [("toy_one", 1), ("toy_two", 1)])
  assert next(Dataset(DatasetConfig("toy_both", {"targets": 64}, 2, "lm")).train())
  put(models, "second", data / "b.model")
  with pytest.raises(UserError, match="the tasks of mixture toy_both differ in their vocabulary"):
    Dataset(DatasetConfig("toy_both", {"targets": 64}, 2, "lm"))


def test_inputs_follow_targets_only_where_they_are_alike(data, models):
  own = saved(models, "first", data / "run")
  bare = LosslessSentencePieceVocabulary("toy")
  for inputs, kept in (bare, own), (seqio.PassThroughVocabulary(9), None):
    seqio.TaskRegistry.add("toy_pairs", source=LocalTextSource(LocalText(f"{data}/text/*.txt")), preprocessors=[],
                           output_features={"inputs": seqio.Feature(inputs), "targets": seqio.Feature(bare)})
    try:
      lengths = {"inputs": 4, "targets": 4}
      features = Dataset(DatasetConfig("toy_pairs", lengths, 1, "prefix_lm"), own).provider.output_features
    finally:
      seqio.TaskRegistry.remove("toy_pairs")
    assert features["targets"].vocabulary is own and features["inputs"].vocabulary is (kept or inputs)
