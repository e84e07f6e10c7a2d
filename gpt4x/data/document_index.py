"""An index of documents: texts, and how those are found that a question is about.

A folder. `note.json`, which is written last, has the lengths and the checksums. `documents.jsonl` has a name and a text
on each line, `words/` the index of their words (BM25), and `vectors.npy` a vector of each text if a model made some.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import importlib
import json
import logging
import pathlib
import re
from typing import Any, Literal
import unicodedata

import numpy as np

from gpt4x import storage
from gpt4x.data import objects, prepared, text_files
from gpt4x.data.local_text import LocalText
from gpt4x.data.scripts import WORD
from gpt4x.data.text_files import Document, read_documents
from gpt4x.errors import UserError

NOTE, DOCUMENTS, WORDS, VECTORS, CENTRE = "note.json", "documents.jsonl", "words", "vectors.npy", "centre.npy"
By = Literal["words", "vectors", "both"]
_VERSION = 1
_RANK = 60  # What ranks are added to where two lists of documents become one (reciprocal rank fusion, Cormack 2009).
_SPARE = 64  # Vectors that are compared again, so that equally near documents keep their order.


@dataclasses.dataclass(frozen=True)
class Found:
  """A document, and how well it fits the question; scores of different questions say nothing of each other."""

  number: int
  name: str
  text: str
  score: float


def package(name: str) -> Any:
  """bm25s or faiss; a UserError says how to install it."""
  try:
    found = importlib.import_module(name)
    logging.getLogger(name).setLevel(logging.WARNING)  # bm25s tells of each step otherwise.
    return found
  except ImportError as error:
    raise UserError(f"retrieval needs the package {name} ({error}): pip install 'gpt4x[knowledge]'") from error


def words(text: str) -> list[str]:
  """The words and numbers of a text, in small letters; of scripts without blanks, its characters."""
  return re.findall(WORD, unicodedata.normalize("NFKC", text).casefold())


def documents(corpus: LocalText) -> Iterator[Document]:
  """(name, text) of all documents that a corpus names, in order; nothing is held out of `files`."""
  files, _ = corpus.find()
  bad = (lambda _: None) if corpus.on_bad_record == "skip" else text_files.refuse
  for path, opened in objects.opened(files):
    yield from read_documents(path, bad, opened)


class DocumentIndex:
  """An index, opened; a UserError says what is wrong with it.

  Attributes:
    model: of the model that has made the vectors: its step, its checksum, and more; empty without vectors.
  """

  def __init__(self, directory: str):
    self.path = storage.path(directory)
    if storage.is_remote(directory):
      raise UserError(f"{directory} is in a bucket, and an index is read in place: copy it to a folder of this machine")
    note = prepared.read_json(self.path / NOTE)
    if not note:
      raise UserError(f"{directory} is no index of documents ({NOTE} is missing): correct the path, or make one by"
                      f" gpt4x index --output={directory}")
    try:
      if note["version"] != _VERSION:
        raise ValueError(f"version {note['version']!r}, and this gpt4x reads {_VERSION}")
      self._starts, self.model = np.array([0, *np.cumsum(note["lengths"])]), dict(note["model"])
      for name, expected in note["files"].items():
        if storage.size_and_crc(self.path / name) != expected:
          raise ValueError(f"{name} is not as it was written")
    except OSError as error:
      raise self._damaged(f"{error.filename}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError) as error:
      raise self._damaged(str(error)) from error
    self._words = package("bm25s").BM25.load(str(self.path / WORDS), mmap=True, show_progress=False)
    self._vectors: np.ndarray | None = np.load(self.path / VECTORS, mmap_mode="r") if self.model else None
    self._centre: np.ndarray = np.load(self.path / CENTRE) if self.model else np.zeros(())

  def __len__(self) -> int:
    return len(self._starts) - 1

  def __getitem__(self, number: int) -> Document:
    with open(self.path / DOCUMENTS, "rb") as file:
      file.seek(self._starts[number])
      line = json.loads(file.readline())
    return line["name"], line["text"]

  def search(self, question: str, count: int, vector: np.ndarray | None = None, by: By | None = None) -> list[Found]:
    """The `count` documents that fit best, the best first; of equally good ones the first in the index.

    By words, documents that share none with the question are not found. `by` None: by all that there is.
    """
    by = by or ("both" if self.model else "words")
    if by != "words" and (self._vectors is None or vector is None):
      raise UserError(f"the index {self.path} has no vectors: make it by gpt4x index --dense, or search it by words")
    depth = count if by != "both" else max(count, _SPARE)
    lists = [*([self._by_words(question, depth)] if by != "vectors" else []),
             *([self._by_vectors(vector, depth)] if by != "words" and vector is not None else [])]
    scores = dict(lists[0])
    if by == "both":
      scores = {}
      for ranked in lists:
        for rank, (number, _) in enumerate(ranked, 1):
          scores[number] = scores.get(number, 0.0) + 1 / (_RANK + rank)
    best = sorted(scores, key=lambda number: (-scores[number], number))[:count]
    return [Found(number, *self[number], scores[number]) for number in best]

  def _by_words(self, question: str, count: int) -> list[tuple[int, float]]:
    known = [word for word in words(question) if word in self._words.vocab_dict]
    if not known:
      return []
    scores = np.asarray(self._words.get_scores(known))
    best = np.argsort(-scores, kind="stable")[:count]
    return [(int(number), float(scores[number])) for number in best if scores[number] > 0]

  def _by_vectors(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
    faiss, wanted = package("faiss"), min(len(self), count + _SPARE)
    query = unit(np.asarray(vector, np.float32)[None] - self._centre)
    near, numbers = faiss.knn(query, np.ascontiguousarray(self._vectors), wanted, faiss.METRIC_INNER_PRODUCT)
    # Rounding is not the same on every number of threads.
    found = [(number, round(score, 5)) for number, score in zip(numbers[0].tolist(), near[0].tolist())]
    return sorted(found, key=lambda one: (-one[1], one[0]))[:count]

  def _damaged(self, why: str) -> UserError:
    return UserError(f"the index {self.path} is damaged ({' '.join(why.split())}): copy it again, or make it anew by"
                     " gpt4x index")


def build(folder: pathlib.Path, given: Iterable[Document], vectors: Callable[[Sequence[str]], np.ndarray] | None = None,
          model: dict[str, Any] | None = None) -> int:
  """Writes an index into an empty folder of this machine; returns how many documents it has.

  `vectors` gives a vector [F] of each of several texts, float32 [n, F], and `model` is what made them.
  """
  bm25s, lengths, tokens, parts, texts = package("bm25s"), [], [], [], list[str]()
  with open(folder / DOCUMENTS, "wb") as file:
    for name, text in given:
      line = (json.dumps({"name": name, "text": text}) + "\n").encode()
      file.write(line)
      lengths.append(len(line))
      tokens.append(words(text))
      texts.append(text)
      if vectors and len(texts) == 1024:
        parts.append(vectors(texts))
      if not vectors or len(texts) == 1024:
        texts.clear()
  if not lengths:
    raise UserError("the index would be empty: name files with text by --gin.LocalText.files")
  if not any(tokens):
    raise UserError("no document has a word: name files with text by --gin.LocalText.files")
  index = bm25s.BM25()
  index.index(tokens, show_progress=False)
  index.save(str(folder / WORDS), show_progress=False)
  if vectors:
    found = np.concatenate([*parts, *([vectors(texts)] if texts else [])])
    centre = found.mean(0)  # What all texts have in common tells none apart.
    np.save(folder / VECTORS, unit(found - centre))
    np.save(folder / CENTRE, centre)
  files = [path for path in storage.files_below(folder) if path.suffix != ".json" or path.parent != folder]
  note = {"version": _VERSION, "lengths": lengths, "model": model or {},
          "files": {str(path.relative_to(folder)): storage.size_and_crc(path) for path in files}}
  storage.write(folder / NOTE, json.dumps(note).encode())
  return len(lengths)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors [n, F] of length 1."""
  return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
