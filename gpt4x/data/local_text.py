"""Any text, in files or in a bucket, as a seqio source: one document a file, or one a record of JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import os
import random
import sys
from typing import Any, ClassVar, get_args, Literal, NamedTuple

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import seqio
import tensorflow as tf

from gpt4x.data import named_files, objects
from gpt4x.data.entities import Annotations, Offsets
from gpt4x.data.objects import Stat
from gpt4x.data.text_files import Document, read_documents, refuse, shown, text_of
from gpt4x.errors import require, UserError

READER = 2  # Raise it whenever other documents are found in the same files.
HELD_OUT_PERCENT = 5
MANY_DOCUMENTS = 200  # A corpus of at least so many holds out whole documents; a smaller one, the end of each.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalText:
  """Which files make the corpus.

  JSON lines, each an object with a "text", are a document each, as are the objects of whole JSON in a file that its
  name calls JSON. Any other file is one document of UTF-8 text. The content tells which it is, and whether it is packed
  by gzip, bzip2, xz or zstd.

  Attributes:
    files: a glob, or several, of paths or of URLs (`gs://`, `s3://`); `**` stands for folders of any depth.
    validation_files: globs of the validation split; files that they match are never trained on. Without them, part of
      `files` is held out: 5% of the documents by a hash of their text where there are many, else the end of each.
    words: the file that holds the vocabulary of the task local_text_words, such as words.txt of a model.
    tokenizer: the model directory that holds the vocabulary of the task local_text_tokenizer.
    entities: the field of JSON records that says where their entities stand, for the tasks that hide these whole: a
      list of [start, stop] or of {"start", "end"}. None: no record says so.
    offsets: whether `entities` count `characters` or `bytes`.
    on_bad_record: `raise` ends a run at a record or a file that cannot be read; `skip` leaves it out and counts it.
  """
  files: str | Sequence[str] = ()
  validation_files: str | Sequence[str] = ()
  words: str | None = None
  tokenizer: str | None = None
  entities: str | None = None
  offsets: Offsets = "characters"
  on_bad_record: Literal["raise", "skip"] = "raise"

  def __post_init__(self):
    if self.on_bad_record not in ("raise", "skip"):
      raise UserError(f"LocalText.on_bad_record = {self.on_bad_record!r} is unknown: use 'raise' or 'skip'")
    require(self, f"one of {', '.join(get_args(Offsets))}", get_args(Offsets).__contains__, "offsets")

  @property
  def made_of(self) -> Callable[[Any], str]:
    """What gives the text of a record, with its entities where these are annotated."""
    return Annotations(self.entities, self.offsets) if self.entities else text_of

  def find(self) -> tuple[tuple[Stat, ...], tuple[Stat, ...]]:
    """Returns the files for training and those for validation, in order of their names."""
    return named_files.find(self, "your text", "corpus/**/*.txt")


class _Survey(NamedTuple):
  """What `files` hold before anything is held out."""

  documents: int
  held_out: int  # Of the documents, those that would be held out whole.
  beginnings: int  # Documents with text before their cut, and with text behind it.
  ends: int


@functools.lru_cache(maxsize=8)
def _survey(files: tuple[Stat, ...], skip: bool, made_of: Callable[[Any], str]) -> _Survey:
  """Reads all documents, so that a user's mistake shows here and not inside an error of tf.data."""
  counts, bad, first = [0, 0, 0, 0], 0, ""

  def leave_out(message: str) -> None:
    nonlocal bad, first
    bad, first = bad + 1, first or message

  for path, opened in objects.opened(files):
    for _, text in read_documents(path, leave_out if skip else refuse, opened, made_of):
      where = cut(text)
      for i, counted in enumerate((True, held_out(text), where > 0, where < len(text))):
        counts[i] += counted
  if bad:
    print(f"gpt4x: warning: skipped {bad:,} bad records beside {counts[0]:,} documents, as LocalText.on_bad_record"
          f" = 'skip' has it; the first: {first}", file=sys.stderr)
  if not counts[0]:
    raise UserError(f"the corpus is empty: {len(files)} file(s) with no text, {shown(files[0][0])} the first")
  return _Survey(*counts)


def held_out(text: str) -> bool:
  """Whether a document is for validation, by its text alone: equal documents are on the same side."""
  return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def cut(text: str) -> int:
  """Returns where the held-out end of a document starts: at its last 5%, or behind a line end shortly before that."""
  end = len(text) * (100 - HELD_OUT_PERCENT) // 100
  return text.rfind("\n", len(text) * (100 - 2 * HELD_OUT_PERCENT) // 100, end) + 1 or end


def _batches(documents: Iterator[Document], beside: Mapping[str, Callable[[str], bytes]]
             ) -> Iterator[dict[str, list[Any]]]:
  """Groups documents to about a million characters, since tf.data takes nearly a millisecond for each `yield`."""
  names, texts, size = list[bytes](), list[str](), 0

  def batch() -> dict[str, list[Any]]:
    return {"name": names, "text": texts, **{name: list(map(of, texts)) for name, of in beside.items()}}

  for name, text in documents:
    names.append(os.fsencode(name))  # A file's name need not be UTF-8.
    texts.append(text)
    size += len(text) + 1000
    if size > 1_000_000:
      yield batch()
      names, texts, size = [], [], 0
  if names:
    yield batch()


class LocalTextSource(seqio.DataSource):
  """Documents {"name", "text"} of files, with the splits train and validation."""

  # What else a document has, by what is made of its text.
  beside: ClassVar[Mapping[str, Callable[[str], bytes]]] = {}

  def __init__(self, corpus: LocalText | None = None):
    """Takes the files to read; None means gin's `LocalText` at the time of reading."""
    super().__init__(splits=("train", "validation"))
    self._corpus = corpus

  @property
  def corpus(self) -> LocalText:
    """The files to read."""
    return self._corpus or LocalText()

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def fingerprint_parts(self) -> dict[str, Any]:
    """Returns every file with its size and its time or hash, and the rules of what is read and held out."""
    corpus = self.corpus
    train, validation = corpus.find()
    return {"files": train, "validation_files": validation, "held_out": (HELD_OUT_PERCENT, MANY_DOCUMENTS),
            "reader": (READER, corpus.on_bad_record)}

  def documents(self, split: str, seed: int | None = None) -> Iterator[Document]:
    """Checks all documents, then returns (name, text) of those of a split; a seed shuffles the files."""
    corpus = self.corpus
    train, validation = corpus.find()
    files, skip = list(validation if validation and split == "validation" else train), corpus.on_bad_record == "skip"
    survey = _survey(tuple(files), skip, corpus.made_of)
    whole_documents = survey.documents >= MANY_DOCUMENTS
    if not validation:
      shares = {"train": survey.documents - survey.held_out, "validation": survey.held_out} if whole_documents else {
          "train": survey.beginnings, "validation": survey.ends}
      if not shares[split]:
        raise UserError(f"LocalText.files = {corpus.files!r} leaves no text for the split {split}, since its"
                        f" {survey.documents:,} document(s) are too alike or too short to hold out a part: set"
                        " LocalText.validation_files")
    if seed is not None:
      random.Random(seed).shuffle(files)

    def part(text: str) -> str:
      if validation or whole_documents:
        return text if validation or held_out(text) == (split == "validation") else ""
      return text[cut(text):] if split == "validation" else text[:cut(text)]

    documents = ((name, part(text)) for path, opened in objects.opened(files)
                 for name, text in read_documents(path, (lambda _: None) if skip else refuse, opened, corpus.made_of))
    return ((name, text) for name, text in documents if text)

  def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, *, sequence_length: Mapping[str, int] | None = None,
                  use_cached: bool = False, num_epochs: int | None = 1) -> tf.data.Dataset:
    """See seqio.DataSource; seqio shards by dealing out examples."""
    self.documents(split)  # Raises UserErrors here, in the caller's thread.
    strings = tf.TensorSpec([None], tf.string)
    return tf.data.Dataset.from_generator(
        lambda: _batches(self.documents(split, seed if shuffle else None), self.beside),
        output_signature=dict.fromkeys(("name", "text", *self.beside), strings)).unbatch()
