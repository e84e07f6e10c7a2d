"""Any local text as a seqio source: one document a file, or one a line of JSON."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import glob
import gzip
import hashlib
import json
import os
import random
from typing import Any
import zlib

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import seqio
import tensorflow as tf

from gpt4x.errors import UserError

HELD_OUT_PERCENT = 5
MANY_DOCUMENTS = 200  # A corpus of at least so many holds out whole documents; a smaller one, the end of each.

Stat = tuple[str, int, int]  # Path, size, modification time.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalText:
  """Which files make the corpus.

  A file `*.jsonl` or `*.jsonl.gz` has a JSON object with a "text" on each line, and each is a document. Any other file
  is one document of UTF-8 text (gunzipped if it ends in `.gz`).

  Attributes:
    files: a glob, or several; `**` stands for folders of any depth.
    validation_files: globs of the validation split; files that they match are never trained on. Without them, part of
      `files` is held out: 5% of the documents by a hash of their text where there are many, else the end of each.
    words: the file that holds the vocabulary of the task local_text_words, such as words.txt of a model.
  """
  files: str | Sequence[str] = ()
  validation_files: str | Sequence[str] = ()
  words: str | None = None

  def find(self) -> tuple[tuple[Stat, ...], tuple[Stat, ...]]:
    """Returns the files for training and those for validation, in order of their names."""
    if not self.files:
      raise UserError("LocalText.files is not set; name your text, for instance"
                      " --gin.LocalText.files=\"'corpus/**/*.txt'\"")
    train, validation = _match("files", self.files), _match("validation_files", self.validation_files)
    train = {path: stat for path, stat in train.items() if path not in validation}
    if not train:
      raise UserError(f"LocalText.validation_files = {self.validation_files!r} leaves no file to train on")
    return tuple(sorted(train.values())), tuple(sorted(validation.values()))


def _match(parameter: str, patterns: str | Sequence[str]) -> dict[str, Stat]:
  """Returns the files that glob patterns match, by real path."""
  files = {}
  for pattern in [patterns] if isinstance(patterns, str) else patterns:
    matches = [path for path in glob.iglob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path)]
    if not matches:
      raise UserError(f"LocalText.{parameter} = {pattern!r} matches no file (looked from {os.getcwd()})")
    for path in matches:
      stat = os.stat(path)
      files[os.path.realpath(path)] = (path, stat.st_size, stat.st_mtime_ns)
  return files


def read_documents(path: str) -> Iterator[tuple[str, str]]:
  """Yields (name, text) of each document in a file that is not blank."""
  try:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
      json_lines = path.endswith((".jsonl", ".jsonl.gz"))
      documents = _read_json_lines(file, path) if json_lines else [(path, _decode(file.read(), path))]
      yield from ((name, text) for name, text in documents if text.strip())
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"cannot read {path}: {error}") from error


def _read_json_lines(lines: Iterator[bytes], path: str) -> Iterator[tuple[str, str]]:
  offset = 0
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        text = json.loads(_decode(line, path, offset))["text"]
        text.encode("utf-8")  # JSON can spell half a surrogate pair, which cannot be encoded.
      except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}:{number}: not a JSON object with a "text"; each line must look like {{"text": "..."}}') from error
      yield f"{path}:{number}", text
    offset += len(line)


def _decode(data: bytes, path: str, offset: int = 0) -> str:
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
        f"{path} is not UTF-8 at byte {offset + error.start}; convert it or take it out of LocalText.files") from error


@functools.lru_cache(maxsize=8)
def _count_documents(files: tuple[Stat, ...]) -> int:
  """Counts by reading all documents, so that a user's mistake shows here and not inside an error of tf.data."""
  count = sum(1 for path, _, _ in files for _ in read_documents(path))
  if not count:
    raise UserError(f"the corpus is empty: {len(files)} file(s) with no text, {files[0][0]} the first")
  return count


def held_out(text: str) -> bool:
  """Whether a document is for validation, by its text alone: equal documents are on the same side."""
  return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def cut(text: str) -> int:
  """Returns where the held-out end of a document starts: at its last 5%, or behind a line end shortly before that."""
  end = len(text) * (100 - HELD_OUT_PERCENT) // 100
  return text.rfind("\n", len(text) * (100 - 2 * HELD_OUT_PERCENT) // 100, end) + 1 or end


def _batches(documents: Iterator[tuple[str, str]]) -> Iterator[dict[str, list[str]]]:
  """Groups documents to about a million characters, since tf.data takes nearly a millisecond for each `yield`."""
  names, texts, size = [], [], 0
  for name, text in documents:
    names.append(name)
    texts.append(text)
    size += len(text) + 1000
    if size > 1_000_000:
      yield {"name": names, "text": texts}
      names, texts, size = [], [], 0
  if names:
    yield {"name": names, "text": texts}


class LocalTextSource(seqio.DataSource):
  """Documents {"name", "text"} of local files, with the splits train and validation."""

  def __init__(self, corpus: LocalText | None = None):
    """Takes the files to read; None means gin's `LocalText` at the time of reading."""
    super().__init__(splits=("train", "validation"))
    self._corpus = corpus

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def fingerprint_parts(self) -> dict[str, Any]:
    """Returns every file with its size and modification time, and the rule of what is held out."""
    train, validation = (self._corpus or LocalText()).find()
    return {"files": train, "validation_files": validation, "held_out": (HELD_OUT_PERCENT, MANY_DOCUMENTS)}

  def documents(self, split: str, seed: int | None = None) -> Iterator[tuple[str, str]]:
    """Checks all documents, then returns (name, text) of those of a split; a seed shuffles the files."""
    train, validation = (self._corpus or LocalText()).find()
    files = list(validation if validation and split == "validation" else train)
    whole_documents = _count_documents(tuple(files)) >= MANY_DOCUMENTS
    if seed is not None:
      random.Random(seed).shuffle(files)

    def part(text: str) -> str:
      if validation or whole_documents:
        return text if validation or held_out(text) == (split == "validation") else ""
      return text[cut(text):] if split == "validation" else text[:cut(text)]

    documents = ((name, part(text)) for path, _, _ in files for name, text in read_documents(path))
    return ((name, text) for name, text in documents if text)

  def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, *, sequence_length: Mapping[str, int] | None = None,
                  use_cached: bool = False, num_epochs: int | None = 1) -> tf.data.Dataset:
    """See seqio.DataSource; seqio shards by dealing out examples."""
    self.documents(split)  # Raises UserErrors here, in the caller's thread.
    strings = tf.TensorSpec([None], tf.string)
    return tf.data.Dataset.from_generator(
        lambda: _batches(self.documents(split, seed if shuffle else None)),
        output_signature={"name": strings, "text": strings}).unbatch()
