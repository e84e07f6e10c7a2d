"""Prepared sets as a corpus: what each counts for, and what is refused."""

import collections
import pathlib
import sys

import gin
import pytest
import seqio

from gpt4x import cli, tasks  # noqa: F401
from gpt4x.data import local_text, prepared_text
from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.prepared_text import PreparedText, PreparedTextSource
from gpt4x.errors import UserError
from gpt4x.planning import steps
from tests.preparation import preparing


def shout(document):
  return document.with_text(document.text.upper())


@pytest.fixture(name="sets", scope="module")
def _sets(tmp_path_factory):
  """Two prepared sets, of 300 documents in two shards and of 100 in one."""
  folder, sets = tmp_path_factory.mktemp("sets"), {}
  for name, files in (("web", [[f"web page {row} of {file}" for row in range(150)] for file in range(2)]),
                      ("books", [[f"book {row}" for row in range(100)]])):
    preparing.run(preparing.write(folder / f"{name}_input", *files), folder / name, shout)
    sets[name] = str(folder / name)
  return sets


def texts(split: str = "train") -> collections.Counter:
  return collections.Counter(text for _, text in PreparedTextSource().documents(split))


def test_a_task_reads_what_was_prepared(sets):
  gin.parse_config(f"PreparedText.sets = {sets!r}")
  dataset = seqio.get_mixture_or_task("prepared_text_bytes").get_dataset(None, "train", shuffle=False)
  found = [bytes((example["targets"][:-1] - 3).tolist()).decode() for example
           in dataset.as_numpy_iterator()]
  assert collections.Counter(found) == texts() and "BOOK 1" in found


def test_each_document_is_trained_on_or_held_out(sets):
  gin.parse_config(f"PreparedText.sets = {sets!r}")
  train, held_out = texts(), texts("validation")
  assert not train & held_out and (train | held_out).total() == 400 and 0 < held_out.total() < 60
  assert all(local_text.held_out(text) for text in held_out)


@pytest.mark.parametrize("epochs", [0, 0.25, 1, 2, 2.5])
def test_a_set_comes_so_often(sets, epochs):
  gin.parse_config(f"PreparedText.sets = {sets!r}")
  once = texts()
  gin.parse_config(f"PreparedText.epochs = {{'web': {epochs}}}")
  found = texts()
  web, books = ([text for text in once if text.startswith(kind)] for kind in ("WEB", "BOOK"))
  assert all(found[text] == 1 for text in books)
  assert {found[text] for text in web} <= {int(epochs), -int(-epochs // 1)}
  assert sum(found[text] for text in web) == pytest.approx(epochs * len(web), abs=0.12 * len(web) * (epochs % 1 > 0))
  assert texts("validation").total() == 400 - once.total()


def test_a_folder_may_be_written_in_any_way(sets, monkeypatch, tmp_path):
  monkeypatch.chdir(pathlib.Path(sets["web"]).parent)
  (tmp_path / "link").symlink_to(sets["books"])
  gin.parse_config(f"PreparedText.sets = {{'web': './web/', 'books': '{tmp_path}/link'}}")
  assert texts().total() + texts("validation").total() == 400


def test_other_epochs_are_other_data(sets):
  gin.parse_config(f"PreparedText.sets = {sets!r}")
  before = PreparedTextSource().fingerprint_parts()
  gin.parse_config("PreparedText.epochs = {'web': 2}")
  assert PreparedTextSource().fingerprint_parts() != before


def test_shares_are_of_a_pass(sets):
  web, books = PreparedText(sets, {"books": 3}).shares()
  assert (web.documents, books.documents, books.epochs) == (300, 100, 3)
  assert web.size == sum(len(f"web page {row} of 0") for row in range(150)) * 2
  assert books.share == pytest.approx(3 * books.size / (web.size + 3 * books.size)) and web.share + books.share == 1


class Words(seqio.PassThroughVocabulary):
  """A token a word."""

  def encode(self, s):
    return s.split()


def test_tokens_are_those_of_a_sample_by_its_bytes(sets, monkeypatch):
  of_bytes, of_words = (PreparedText(sets).shares(one) for one in (seqio.ByteVocabulary(), Words(100)))
  assert [one.tokens for one in of_bytes] == [one.size + one.documents for one in of_bytes]
  assert [one.tokens for one in of_words] == [300 * 6, 100 * 3]
  monkeypatch.setattr(prepared_text, "_CHARACTERS", 20)  # Of each part one "WEB PAGE 0 OF 0", and a part of the next.
  assert [text[:10] for text in prepared_text._sample(sets["web"])] == ["WEB PAGE 0", "WEB P", "WEB PAGE 0", "WEB P"]
  monkeypatch.setattr(prepared_text, "_SAMPLED", 1)
  assert [text[-4:] for text in prepared_text._sample(sets["web"])] == ["OF 0", "EB P"]
  assert PreparedText(sets).shares()[0].tokens is None and "tokens" not in str(PreparedText(sets).shares()[0])


@pytest.mark.parametrize("task, told", [
    ("prepared_text_bytes", "MB of text, about 5,200 tokens, 1 times"), ("prepared_text", "MB of text, 1 times")])
def test_a_plan_says_the_tokens_where_the_vocabulary_is_made(sets, capsys, monkeypatch, tmp_path, task, told):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))  # Where no test has made a vocabulary.
  monkeypatch.setattr(steps.TrainingStep, "of", lambda config: sys.exit(75))  # What comes next is not looked at.
  with pytest.raises(SystemExit):
    cli.main(["plan", "--gin_file=experiments/quickstart.gin", "--gin_file=data/prepared_text.gin",
              "--topology=v5p:4x4x4", f"--gin.PreparedText.sets={sets!r}", f"--gin.MIXTURE_OR_TASK_NAME='{task}'"])
  assert told in capsys.readouterr().err


@pytest.mark.parametrize("make, message", [
    (lambda sets: PreparedText().corpus, "PreparedText.sets is not set: name what gpt4x prepare wrote"),
    (lambda sets: PreparedText({"web": "/nowhere"}).corpus, "PreparedText.sets has 'web': '/nowhere', which is no"),
    (lambda sets: PreparedText(sets, {"wob": 1}), r"PreparedText.epochs = {'wob': 1} has 'wob': name sets .web, b"),
    (lambda sets: PreparedText(sets, {"web": -1}), r"PreparedText.epochs = {'web': -1} has 'web'")])
def test_a_wrong_set_is_named(sets, make, message):
  with pytest.raises(UserError, match=message):
    make(sets)


def test_what_a_pass_is_made_of_is_said_in_a_line_each(sets):
  gin.parse_config(f"PreparedText.sets = {sets!r}\nPreparedText.epochs = {{'books': 3}}")
  web, books = DatasetConfig("prepared_text_bytes", {"targets": 16}, 2).open().composition
  assert web.startswith("web: 300 documents, 0.0 MB of text, about 5,200 tokens, 1 times a pass, ")
  assert books.startswith("books: 100 documents, 0.0 MB of text, about 790 tokens, 3 times a pass, ")
  assert not DatasetConfig("stdlib_bytes", {"targets": 16}, 2).open().composition
