"""What `gpt4x prepare` wrote, one set or several, as a corpus in which each counts as often as gin says."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
import os
from typing import Any, NamedTuple, TYPE_CHECKING

import gin

from gpt4x import storage
from gpt4x.data import named_files, objects
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.text_files import Document, read_documents
from gpt4x.errors import refuse, UserError

if TYPE_CHECKING:
  import seqio

_REPORT = "report.json"  # Is there once a set is whole.
_SAMPLED, _CHARACTERS = 4, 1 << 16  # Parts of a set of which tokens are counted, and characters of each.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PreparedText:
  """Which prepared sets make the corpus.

  Attributes:
    sets: the folder of each by a name, such as {"web": "prepared/web", "books": "prepared/books"}.
    epochs: how often a pass through the corpus goes through a set, where that is not once; of 1.5, every second
      document comes twice, and of 0.25, every fourth is there. Held-out documents are there once.
  """

  sets: Mapping[str, str] = dataclasses.field(default_factory=dict)
  epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name, epochs in self.epochs.items():
      refuse(self, name not in self.sets or not epochs >= 0, "epochs",
             f"has {name!r}: name sets ({', '.join(self.sets) or 'there are none'}), and numbers of at least 0")

  @property
  def corpus(self) -> LocalText:
    """The files of all sets; raises UserError for a folder that no preparation has finished."""
    if not self.sets:
      raise UserError("PreparedText.sets is not set: name what gpt4x prepare wrote, for instance"
                      " --gin.PreparedText.sets=\"{'web': 'prepared/web'}\"")
    for name in self.sets:
      self.report(name)
    return LocalText([_parts(folder) for folder in self.sets.values()])

  def report(self, name: str) -> Mapping[str, Any]:
    """The report of a set."""
    folder = self.sets[name]
    content = storage.read(storage.path(folder) / _REPORT)
    if content is None:
      raise UserError(f"PreparedText.sets has {name!r}: {folder!r}, which is no prepared set, or one that is not"
                      " finished: give the same gpt4x prepare again")
    return json.loads(content)

  def shares(self, vocabulary: "seqio.Vocabulary | None" = None) -> list["Share"]:
    """What each set is of a pass through the corpus, with its tokens if the vocabulary is known."""
    kept: dict[str, tuple[int, int]] = {name: tuple(self.report(name)["kept"]) for name in self.sets}
    passed = {name: size * self.epochs.get(name, 1.0) for name, (_, size) in kept.items()}
    whole = sum(passed.values()) or 1.0
    return [Share(name, *kept[name], self.epochs.get(name, 1.0), passed[name] / whole,
                  None if vocabulary is None else self._tokens(name, *kept[name], vocabulary)) for name in self.sets]

  def _tokens(self, name: str, documents: int, size: int, vocabulary: "seqio.Vocabulary") -> int:
    """About as many as the set has: by those of a sample for each byte, and one for the end of each document."""
    texts = list(_sample(self.sets[name]))
    tokens, read = sum(len(vocabulary.encode(text)) for text in texts), sum(len(text.encode()) for text in texts)
    return documents + round(size * tokens / max(1, read))


class Share(NamedTuple):
  """A set: documents and bytes of text that it has, how often a pass goes through it, its part of the pass, and tokens.

  The tokens are of the set once, and None if it is not known of which vocabulary.
  """

  name: str
  documents: int
  size: int
  epochs: float
  share: float
  tokens: int | None = None

  def __str__(self) -> str:
    tokens = "" if self.tokens is None else f", about {int(float(f'{self.tokens:.2g}')):,} tokens"
    return (f"{self.name}: {self.documents:,} documents, {self.size / 1e6:,.1f} MB of text{tokens}, {self.epochs:g}"
            f" times a pass, {self.share:.1%} of it")


class PreparedTextSource(LocalTextSource):
  """Documents {"name", "text"} of prepared sets, with the splits train and validation."""

  @property
  def corpus(self) -> LocalText:
    return PreparedText().corpus

  def shares(self, vocabulary: "seqio.Vocabulary") -> list[Share]:
    """What each set is of a pass, in documents, bytes and tokens."""
    return PreparedText().shares(vocabulary)

  def fingerprint_parts(self) -> dict[str, Any]:
    return super().fingerprint_parts() | {"epochs": sorted(PreparedText().epochs.items())}

  def documents(self, split: str, seed: int | None = None) -> Iterator[Document]:
    documents = super().documents(split, seed)
    return documents if split == "validation" else self._repeated(documents, PreparedText())

  def _repeated(self, documents: Iterator[Document], prepared: PreparedText) -> Iterator[Document]:
    of_folder = {_real(folder): prepared.epochs.get(name, 1.0) for name, folder in prepared.sets.items()}
    real = functools.lru_cache(maxsize=64)(_real)
    for document in documents:
      epochs = of_folder[real(_folder(document[0]))]
      drawn = int(hashlib.sha256(document[1].encode()).hexdigest()[-8:], 16) / 2**32  # The first digits hold out.
      for _ in range(int(epochs) + (drawn < epochs % 1)):
        yield document


def _parts(folder: str) -> str:
  return f"{folder.rstrip('/')}/part-*.jsonl.zst"


def _sample(folder: str) -> Iterator[str]:
  """Texts of a prepared set: the beginnings of some parts, which lie all over it."""
  files = sorted(named_files.match("PreparedText.sets", _parts(folder)).values())
  for file in files[::-(-len(files) // _SAMPLED)]:
    for path, opened in objects.opened([file]):
      left = _CHARACTERS
      for _, text in read_documents(path, lambda _: None, opened):
        yield text[:left]
        if (left := left - len(text)) <= 0:
          break
      break  # Lest the rest of it is fetched from a bucket.


def _real(folder: str) -> str:
  """The same for all ways to write a folder: a file's name has that of the glob."""
  return folder.rstrip("/") if storage.is_remote(folder) else os.path.realpath(folder)


def _folder(name: str) -> str:
  """The folder of a document's file."""
  return name.rpartition("/")[0]
