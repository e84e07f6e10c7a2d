"""Documents that a question is about: what is found against NumPy, in which order, and what is refused."""

import gzip
import json
import math
import os
import shutil
import sys

import numpy as np
import pytest

from gpt4x.data import document_index, prepared
from gpt4x.data.document_index import DocumentIndex, words
from gpt4x.data.local_text import LocalText
from gpt4x.errors import UserError

TEXTS = ["Mary went to the garden.", "John has the MILK, and John is at home", "the garden is green", "Ünïcode ½ milk",
         "the garden is green", "nothing of that kind"]
NAMED = [(f"{number}.txt", text) for number, text in enumerate(TEXTS)]
VECTORS = np.random.default_rng(0).normal(size=(len(TEXTS), 5)).astype(np.float32)
VECTORS[4] = VECTORS[2]


def write(path, named=NAMED, vectors=None):
  model = {"step": 3, "checksum": "abc"} if vectors is not None else None
  rows = None if vectors is None else lambda texts: np.stack([vectors[TEXTS.index(text)] for text in texts])
  with prepared.new_folder(path) as folder:
    document_index.build(folder, named, rows, model)
  return DocumentIndex(str(path))


@pytest.fixture(scope="module", name="index")
def _index(tmp_path_factory):
  return write(tmp_path_factory.mktemp("index") / "made", vectors=VECTORS)


def bm25(question, texts, k1=1.5, b=0.75):
  """Scores as Lucene has them (Kamphuis et al. 2020), a document and a word at a time."""
  split = [words(text) for text in texts]
  mean, scores = np.mean([len(one) for one in split]), []
  for one in split:
    score = 0.0
    for word in words(question):
      df = sum(word in other for other in split)
      if df:
        tf = one.count(word)
        score += math.log(1 + (len(texts) - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len(one) / mean))
    scores.append(score)
  return np.array(scores)


@pytest.mark.parametrize("question", ["Where is the garden?", "who has milk", "John home John", "½", "GARDEN"])
def test_by_words(index, question):
  expected = bm25(question, TEXTS)
  found = index.search(question, 4, by="words")
  order = [number for number in np.argsort(-expected.round(5), kind="stable")[:4] if expected[number] > 0]
  assert [one.number for one in found] == order and order
  np.testing.assert_allclose([one.score for one in found], expected[order], rtol=1e-5)
  assert [(one.name, one.text) for one in found] == [NAMED[number] for number in order]


def test_equal_documents_come_in_their_order(index):
  assert [one.number for one in index.search("green", 2, by="words")] == [2, 4]
  assert [one.number for one in index.search("green", 1, by="words")] == [2]
  assert [one.number for one in index.search("", 2, VECTORS[2], "vectors")] == [2, 4]


@pytest.mark.parametrize("question", ["", "zebra", "?!"])
def test_no_word_in_common_finds_nothing(index, question):
  assert index.search(question, 3, by="words") == []


@pytest.mark.parametrize("question, number", [("猫在哪里", 0), ("कहाँ है दिल्ली", 1), ("ไทย", 2)])
def test_scripts_without_blanks_and_with_marks_have_words(tmp_path, question, number):
  texts = ["这只猫很小。", "दिल्ली एक शहर है", "ประเทศไทยสวย", "no more"]
  found = write(tmp_path / "made", [(str(i), text) for i, text in enumerate(texts)]).search(question, 1, by="words")
  assert [one.number for one in found] == [number]


def test_by_vectors_and_by_both(index, monkeypatch):
  import faiss
  question, query = "John has milk", VECTORS[0] + 0.1
  centred = VECTORS - VECTORS.mean(0)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  cosine = unit(centred) @ unit(query - VECTORS.mean(0))
  near = np.argsort(-cosine.round(5), kind="stable")
  found = index.search(question, 6, query, "vectors")
  assert [one.number for one in found] == near.tolist()
  np.testing.assert_allclose([one.score for one in found], cosine[near], atol=2e-5)
  # Both: each list gives 1 / (60 + rank).
  scores = dict.fromkeys(range(6), 0.0)
  for ranked in ([one.number for one in index.search(question, 6, by="words")], near.tolist()):
    for rank, number in enumerate(ranked, 1):
      scores[number] += 1 / (60 + rank)
  expected = sorted(scores, key=lambda number: (-scores[number], number))[:3]
  threads = faiss.omp_get_max_threads()
  for count in (1, 2):
    faiss.omp_set_num_threads(count)
    both = index.search(question, 3, query)
    assert [one.number for one in both] == expected
  faiss.omp_set_num_threads(threads)
  np.testing.assert_allclose([one.score for one in both], [scores[number] for number in expected])


def test_vectors_that_there_are_not(tmp_path):
  index = write(tmp_path / "words")
  assert [one.number for one in index.search("milk", 9)] == [3, 1] or len(index.search("milk", 9)) == 2
  with pytest.raises(UserError, match="has no vectors: make it by gpt4x index --dense"):
    index.search("milk", 1, VECTORS[0], "vectors")


def test_documents_are_those_of_local_text(tmp_path):
  (tmp_path / "a.txt").write_text("plain ünïcödé", encoding="utf-8")
  (tmp_path / "b.jsonl").write_text('{"text": "one", "answer": "hidden"}\n{"text": "two"}\n')
  with gzip.open(tmp_path / "c.txt.gz", "wt") as file:
    file.write("packed")
  found = list(document_index.documents(LocalText(files=str(tmp_path / "*"))))
  assert [text for _, text in found] == ["plain ünïcödé", "one", "two", "packed"]  # No other field.
  assert [name.rpartition("/")[2] for name, _ in found] == ["a.txt", "b.jsonl:1", "b.jsonl:2", "c.txt.gz"]
  (tmp_path / "d.jsonl").write_text('{"prompt": "Where?", "completion": "There"}\n')
  with pytest.raises(UserError, match="d.jsonl:1"):  # Examples are no documents.
    list(document_index.documents(LocalText(files=str(tmp_path / "*.jsonl"))))


@pytest.mark.parametrize("named, words", [
    ([], "the index would be empty"), ([("a", "?! ...")], "no document has a word")])
def test_an_empty_index_is_an_error_and_leaves_nothing(tmp_path, named, words):
  with pytest.raises(UserError, match=words):
    write(tmp_path / "index", named)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage, words", [
    (lambda path: (path / "note.json").unlink(), "is no index of documents"),
    (lambda path: (path / "note.json").write_text('{"version": 7}'), "version 7, and this gpt4x reads 1"),
    (lambda path: os.truncate(path / "documents.jsonl", 40), "documents.jsonl is not as it was written"),
    (lambda path: (path / "vectors.npy").write_bytes(b"no"), "vectors.npy is not as it was written"),
    (lambda path: (path / "words" / "params.index.json").write_text("{}"), "params.index.json is not as it was"),
    (lambda path: shutil.rmtree(path / "words"), "damaged .*words/.*No such file"),
])
def test_a_damaged_index_is_refused(index, tmp_path, damage, words):
  shutil.copytree(index.path, tmp_path / "index")
  damage(tmp_path / "index")
  with pytest.raises(UserError, match=words) as error:
    DocumentIndex(str(tmp_path / "index"))
  assert "\n" not in str(error.value)


def test_names_that_are_no_text(tmp_path):
  """Of files, as the system may have them."""
  index = write(tmp_path / "index", [("a\udcff.txt", "milk")])
  assert index.search("milk", 1)[0].name == "a\udcff.txt"
  assert json.loads((tmp_path / "index" / "documents.jsonl").read_text())["text"] == "milk"


@pytest.mark.parametrize("name", ["bm25s", "faiss"])
def test_a_package_that_is_missing(monkeypatch, name):
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(UserError, match=rf"needs the package {name} .*: pip install 'gpt4x\[knowledge\]'"):
    document_index.package(name)
