"""The tasks of public text, on books, sentences and articles made up here, which tfds's own builders prepare."""

import importlib
import json
import types
from unittest import mock

import gin
import pytest
import seqio
import tensorflow_datasets as tfds

from gpt4x import configuration
from gpt4x.data import public_sets, vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.public_sets import PublicSource
from gpt4x.data.tokenization import open_or_build
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401  Finds the next.
from gpt4x.tasks.public_text import add_tasks

ADDED = [name for name in seqio.TaskRegistry.names() if type(seqio.TaskRegistry.get(name).source) is PublicSource]
NAMES = [name for name in ADDED if not name.endswith("_bytes")]
SETS = sorted({seqio.TaskRegistry.get(name).source.tfds_dataset.name for name in NAMES})
BOOKS = {"train": {1: "Call me Ishmael.\n", 2: " It was \t the best of times", 3: "ö" * 40},
         "validation": {4: "In the beginning."}, "test": {5: "The end."}}


def source_of(name):
  return seqio.TaskRegistry.get(name).source


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
  """Folders of their own, in which tfds has prepared nothing yet."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  monkeypatch.setattr(seqio.utils.LazyTfdsLoader, "_MEMOIZED_BUILDERS", {})
  for name in ADDED:
    monkeypatch.setattr(source_of(name).tfds_dataset, "_data_dir_override", str(tmp_path / "tfds"))


@pytest.fixture(name="books")
def _books(tmp_path, monkeypatch):
  """PG-19 of a few lines, in the place of the bucket from which tfds takes it."""
  folder = tmp_path / "deepmind-gutenberg"
  for split, texts in BOOKS.items():
    (folder / split).mkdir(parents=True)
    for number, text in texts.items():
      (folder / split / f"{number}.txt").write_text(text)
  (folder / "metadata.csv").write_text("".join(f"{i},A title,1851,a link\n" for i in range(1, 6)))
  builder = importlib.import_module(tfds.builder_cls("pg19").__module__)
  monkeypatch.setattr(builder, "_DATA_DIR", folder)
  return folder


def as_another_process(monkeypatch):
  """Forgets what this one knows of prepared sets."""
  monkeypatch.setattr(seqio.utils.LazyTfdsLoader, "_MEMOIZED_BUILDERS", {})


# What is registered.


def test_each_set_is_two_tasks():
  assert {f"{name}_bytes" for name in NAMES} | set(NAMES) == set(ADDED)
  assert {"c4", "mc4_de", "wikipedia_en", "pg19"} <= set(NAMES)
  for name in NAMES:
    plain, pieces = seqio.TaskRegistry.get(f"{name}_bytes"), seqio.TaskRegistry.get(name)
    assert repr(plain.source) == repr(pieces.source) and {"train", "validation"} <= set(plain.splits)
    assert isinstance(plain.output_features["targets"].vocabulary, seqio.ByteVocabulary)
    assert isinstance(pieces.output_features["targets"].vocabulary, vocabularies.LosslessSentencePieceVocabulary)


def test_the_languages_of_mc4_are_those_of_tfds():
  languages = importlib.import_module("tensorflow_datasets.text.c4").MC4_LANGUAGES
  assert {name for name in NAMES if name.startswith("mc4_")} == {
      f"mc4_{language.replace('-', '_')}" for language in languages}


@pytest.mark.parametrize("name", SETS)
def test_tfds_can_prepare_this_version(name):
  """It refuses to prepare any but the newest version of a set."""
  path, version = name.split(":")
  builder = tfds.builder_cls(path.partition("/")[0])
  configs = [one for one in builder.BUILDER_CONFIGS if one.name == path.partition("/")[2]]
  assert len(configs) == ("/" in path)  # Without a name, tfds would take the first.
  assert version == str(configs[0].version if configs and configs[0].version else builder.VERSION)


def splits_of(builder, tmp_path):
  """The names of the splits that a builder will make."""
  (tmp_path / "input.txt").write_text("so much depends")
  (tmp_path / "status.json").write_text(json.dumps(
      {"jobs": {"articlesmultistreamdump": {"status": "done", "files": {}}}}))
  downloads = types.SimpleNamespace(
      download=lambda urls: {"xml": []} if isinstance(urls, dict) else str(tmp_path / "input.txt"),
      download_and_extract=lambda urls: dict.fromkeys(urls, str(tmp_path / "status.json")) if "info" in urls else (
          {"wet_path_urls": [], "badwords": {}, "realnews_domains": ""} if isinstance(urls, dict) else str(tmp_path)))
  with mock.patch.object(type(builder), "_get_pages_pcollection", create=True), \
       mock.patch.object(type(builder), "_generate_examples", create=True):
    beam = {"pipeline": None} if builder.name == "c4" else {}
    made = builder._split_generators(downloads, **beam)
  return {str(one) for one in made} if isinstance(made, dict) else {str(one.name) for one in made}


@pytest.mark.parametrize("name", SETS)
def test_splits_and_features_are_those_of_tfds(name, tmp_path, books):
  builder = tfds.builder(name, data_dir=tmp_path)
  known = splits_of(builder, tmp_path)
  for task in [seqio.TaskRegistry.get(task) for task in ADDED if source_of(task).tfds_dataset.name == name]:
    assert {task.source.tfds_dataset._map_split(split).partition("[")[0] for split in task.splits} <= known
    feature = task.preprocessors[0].keywords["key_map"]["targets"]
    assert isinstance(builder.info.features[feature], tfds.features.Text)


def test_languages_are_told_apart():
  assert source_of("mc4_de").tfds_dataset._map_split("train") == "de"
  assert source_of("mc4_ru_Latn").tfds_dataset._map_split("validation") == "ru-Latn-validation"
  assert source_of("wikipedia_ja").tfds_dataset.name == "wikipedia/20230601.ja:1.0.0"


# What is read.


@pytest.mark.parametrize("name", ["c4_bytes", "mc4_de_bytes", "wikipedia_en_bytes", "lm1b_bytes", "pg19_bytes"])
def test_a_document_goes_through_the_task(name, tmp_path):
  """Of the features of the real set, the text alone."""
  import tensorflow as tf

  def as_dataset(self, *args, **kwargs):
    assert (args, kwargs["shuffle_files"]) == ((), False)
    texts = {feature: f"{feature} of {kwargs['split']}" for feature in ("text", "book_text")}
    example = {key: 0 if key == "book_id" else texts.get(key, "no text") for key in self.info.features}
    return tf.data.Dataset.from_tensors(example)

  with tfds.testing.mock_data(as_dataset_fn=as_dataset, data_dir=str(tmp_path)):
    task = seqio.TaskRegistry.get(name)
    dataset = task.get_dataset(None, "validation", shuffle=False, try_in_mem_cache=False)
    example, = dataset.as_numpy_iterator()
  *text, end = example["targets"].tolist()
  said = {"mc4_de_bytes": "de-validation", "wikipedia_en_bytes": "train[99%:]", "lm1b_bytes": "test"}
  feature = "book_text" if name == "pg19_bytes" else "text"
  assert example.keys() == {"targets"} and end == 1
  assert task.output_features["targets"].vocabulary.decode(text) == f"{feature} of {said.get(name, 'validation')}"


def test_books_become_a_stream(books, monkeypatch):
  """All of PG-19's way: tfds's builder, the token store, rows, and a place in them that is found again."""
  config = DatasetConfig("pg19_bytes", {"targets": 8}, batch_size=2)
  dataset = Dataset(config)
  read = {split: sorted(dataset.vocabulary.decode(tokens.tolist()) for tokens in dataset.documents(split))
          for split in BOOKS}
  assert read == {split: sorted(text.strip() for text in texts.values()) for split, texts in BOOKS.items()}
  stream = dataset.train()
  first = [next(stream) for _ in range(6)]
  stream = dataset.train()
  for _ in range(3):
    next(stream)
  place = json.loads(json.dumps(stream.get_state()))
  as_another_process(monkeypatch)
  stream = Dataset(config).train()
  stream.set_state(place)
  for batch in first[3:]:
    again = next(stream)
    assert all((again[name] == batch[name]).all() for name in batch)


def test_tokens_are_made_once(books, monkeypatch, capfd):
  """Their key is that of the prepared set from the first time on, when tfds knows nothing of it yet."""
  task = seqio.TaskRegistry.get("pg19_bytes")
  path = open_or_build(task, "train").path
  assert "tokenizing pg19_bytes/train" in capfd.readouterr().err
  as_another_process(monkeypatch)
  (books / "train" / "1.txt").write_text("Call me Ahab.")  # A version of a set is not read again.
  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
  assert open_or_build(task, "train").path == path and not capfd.readouterr().err


def test_pieces_of_public_text(books):
  with pytest.raises(UserError, match="--task=pg19_bytes --size=4096 --output=pg19$"):
    Dataset(DatasetConfig("pg19", {"targets": 8}, batch_size=2))
  vocabularies.train_from_task("pg19_bytes", 290, "pg19")
  dataset = Dataset(DatasetConfig("pg19", {"targets": 8}, batch_size=2))
  documents = [tokens.tolist() for tokens in dataset.documents("validation")]
  assert [dataset.vocabulary.decode(tokens) for tokens in documents] == ["In the beginning."]


class TinyArticles(tfds.core.GeneratorBasedBuilder):
  """A set with no validation of its own."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    return {"train": ((i, {"text": f"article {i}"}) for i in range(300))}

  def _generate_examples(self):
    raise NotImplementedError


@pytest.fixture(name="articles")
def _articles(tmp_path):
  """Tasks over TinyArticles, cut as those of Wikipedia are."""
  add_tasks("articles", "tiny_articles:1.0.0", source_of("wikipedia_en").tfds_dataset._split_map)
  source_of("articles_bytes").tfds_dataset.override_data_dir(str(tmp_path / "tfds"))
  yield "articles_bytes"
  for name in ("articles", "articles_bytes"):
    seqio.TaskRegistry.remove(name)


def test_a_cut_leaves_nothing_out_and_shares_nothing(articles):
  dataset = Dataset(DatasetConfig(articles, {"targets": 8}, batch_size=2))
  train, validation = ([dataset.vocabulary.decode(tokens.tolist()) for tokens in dataset.documents(split)]
                       for split in ("train", "validation"))
  assert (len(train), len(validation)) == (297, 3)
  assert {*train, *validation} == {f"article {i}" for i in range(300)}
  assert validation != ["article 297", "article 298", "article 299"]  # They are not the last of the set.


# What may go wrong.


def test_what_cannot_be_prepared_is_one_line_and_is_tried_again(books):
  (books / "metadata.csv").rename(books / "away.csv")
  with pytest.raises(UserError, match="^tensorflow-datasets cannot prepare pg19:0.1.1 .*metadata.csv.*: see"
                                      " .*catalog/pg19, and run where the network is$"):
    open_or_build(seqio.TaskRegistry.get("pg19_bytes"), "train")
  (books / "away.csv").rename(books / "metadata.csv")
  assert len(open_or_build(seqio.TaskRegistry.get("pg19_bytes"), "train")) == 3


def test_what_may_take_weeks_is_said(monkeypatch, capfd):
  def stop(self):
    raise OSError("no network")

  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", stop)
  public_sets.say_once.cache_clear()
  for name in ("c4", "tiny_shakespeare"):
    with pytest.raises(UserError, match="no network"):
      source_of(name).get_dataset("train")
  err = capfd.readouterr().err
  assert "prepares c4/en/3.1.0 by Apache Beam" in err and "tiny_shakespeare" not in err


def test_tfds_can_look_for_checksums():
  """As it does ahead of each download, with or without a package that it does not ask for."""
  assert tfds.core.dataset_builder.importlib_resources.abc.Traversable
  assert tfds.builder_cls("lm1b").url_infos


def test_the_gin_file_names_a_task():
  gin.parse_config_file(str(configuration.SHIPPED / "data" / "c4.gin"))
  assert gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value") in NAMES
