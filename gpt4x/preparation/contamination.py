"""Decontamination: documents that hold parts of evaluations are dropped, or those parts are cut out.

Runs of 13 words are compared, as for GPT-3 (Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C).
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import pathlib
import re
from typing import Any, NamedTuple
import unicodedata

import gin
import numpy as np

from gpt4x import storage
from gpt4x.data import json_lines, named_files, objects
from gpt4x.data.scripts import MARKS, UNSPACED
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import nearest, refuse, require, UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing

_WORD = re.compile(rf"[{UNSPACED}]|(?:[^\W_{UNSPACED}]|[{MARKS}])+")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")
_PUNCTUATION = re.compile(r"[^\w\s]*")
_CUTS = 16  # A text made of items in items is dropped after so many, lest it take a pass for each.
_EXAMPLE = '{"question": "..."}'


class Item(NamedTuple):
  """A text of an evaluation, and where it was read: "FILE:LINE" or "TASK:SPLIT:NUMBER"."""

  name: str
  text: str


class Hit(NamedTuple):
  """Words of a document, from `start` to before `end`, that are those of an item."""

  start: int
  end: int
  item: str


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Decontaminate:
  """Drops documents that hold `n` words of an evaluation in a row, or the whole of a shorter item.

  A dropped document has the words as its value and the item as its match. Where they are cut out instead, the field
  "contamination" lists the items; a document with nothing else is dropped. Letters' case, punctuation and spaces make
  no difference. A character is a word in scripts without spaces.

  Attributes:
    items: a glob, or several, of files or URLs of JSON lines, packed or not.
    tasks: seqio tasks with a split, "NAME:SPLIT", whose source is read as it is.
    fields: whose strings, and lists of strings, are items; a record must have one of them.
    n: words in a row that are a hit.
    shortest: items of fewer words are not looked for, as they stand everywhere.
    most_items: runs of words in more items than that are no hit: they are instructions, not content. None: all are.
    cut: whether the words are cut out; a blank line stands in their place.
  """

  items: str | Sequence[str] = ()
  tasks: Sequence[str] = ()
  fields: Sequence[str] = ("text", "question", "prompt")
  n: int = 13
  shortest: int = 5
  most_items: int | None = None
  cut: bool = False

  def __post_init__(self):
    is_count = lambda value: isinstance(value, int) and value > 0
    are_names = lambda names: not isinstance(names, str) and all(isinstance(one, str) and one for one in names)
    require(self, "a whole number from 1 on", is_count, "n", "shortest", "most_items")
    require(self, "a list of names, such as ['question']", lambda names: names and are_names(names), "fields")
    require(self, "a list of names with splits, such as ['stdlib_bytes:validation']", lambda tasks: are_names(
        tasks) and all(re.fullmatch(r"[^:]+:[^:]+", one) for one in tasks), "tasks")
    refuse(self, not self.items and not self.tasks, "items", "names no evaluation, nor do tasks: set one of the two")

  def __call__(self, document: Document) -> Document | Dropped:
    index, names = self._index(), list[str]()
    text = document.text
    for _ in range(_CUTS):  # What a cut brings together may be a hit again.
      found = words(text)
      hits = index.hits(found, all_hits=self.cut)
      if not hits:
        return document.with_text(text, contamination=list(dict.fromkeys(names))) if names else document
      if not self.cut:
        return Dropped("contamination", " ".join(found[hits[0].start:hits[0].end]), hits[0].item)
      names += (hit.item for hit in hits)
      text = _without(text, hits)
      if not text.strip():
        break
    return Dropped("contamination", match=names[0])

  def files_read(self) -> list[pathlib.Path]:
    return [storage.path(path) for path in named_files.match("Decontaminate.items", self.items)]

  def _index(self) -> "Index":
    patterns = (self.items,) if isinstance(self.items, str) else tuple(self.items)
    return _index(patterns, tuple(self.tasks), tuple(self.fields), self.n, self.shortest, self.most_items)


@functools.lru_cache(maxsize=4)
def _index(patterns: tuple[str, ...], tasks: tuple[str, ...], fields: tuple[str, ...], n: int, shortest: int,
           most_items: int | None) -> "Index":
  """The index of all items, which a process builds once."""
  items = [*_of_files(patterns, fields), *(item for task in tasks for item in _of_task(task, fields))]
  index = Index(items, n, shortest, most_items)
  if not index.count:
    raise UserError(f"Decontaminate has no item of {shortest} words or more among {len(items):,} in"
                    f" {', '.join((*patterns, *tasks))}: lower Decontaminate.shortest, or name other fields")
  return index


def _of_files(patterns: tuple[str, ...], fields: Sequence[str]) -> Iterator[Item]:
  def fail(message: str) -> None:
    raise UserError(message)

  def texts(place: str, record: dict[str, Any]) -> list[Item]:
    return [Item(place, text) for text in _texts(record, fields)]

  files = named_files.match("Decontaminate.items", patterns)
  for path, opened in objects.opened(files[name] for name in sorted(files)):
    try:
      with opened or open(path, "rb") as file:
        for items in json_lines.objects(path, unpacked(file), texts, fail, _EXAMPLE):
          yield from items
    except READ_ERRORS as error:
      raise UserError(f"cannot read {shown(path)} ({getattr(error, 'strerror', None) or error}): mend it, or take it"
                      " out of Decontaminate.items") from error


def _texts(record: dict[str, Any], fields: Sequence[str]) -> list[str]:
  """The strings of a record's fields."""
  values = [record[field] for field in fields if field in record]
  found = [text for value in values for text in (value if isinstance(value, list) else [value])
           if isinstance(text, str)]
  if not found:
    raise ValueError(f"no text in {' or '.join(map(repr, fields))} (but {', '.join(map(repr, record)) or 'nothing'}):"
                     " set Decontaminate.fields")
  return found


def _of_task(task: str, fields: Sequence[str]) -> Iterator[Item]:
  import gpt4x.tasks  # noqa: F401  Registers those that are shipped.

  # isort: split
  import seqio

  from gpt4x.data.task_examples import BUILDING, errors_of

  name, split = task.split(":")
  if name not in seqio.TaskRegistry.names():
    raise UserError(f"Decontaminate.tasks has the unknown task {name!r}{nearest(name, seqio.TaskRegistry.names())}")
  provider = seqio.TaskRegistry.get(name)
  if split not in provider.splits:
    raise UserError(f"Decontaminate.tasks has the unknown split {split!r} of {name}{nearest(split, provider.splits)}")
  with errors_of(provider, split):
    with BUILDING:
      dataset = provider.source.get_dataset(split=split, shuffle=False)
    for number, example in enumerate(dataset.as_numpy_iterator(), 1):
      place = f"{task}:{number}"
      record = {field: _decoded(value) for field, value in example.items()}
      try:
        yield from (Item(place, text) for text in _texts(record, fields))
      except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _decoded(value: Any) -> Any:
  """Strings of TensorFlow as text; anything else as it is."""
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  if isinstance(value, np.ndarray) and value.dtype == object:
    return [_decoded(one) for one in value.ravel()]
  return value


def words(text: str) -> list[str]:
  """A text's words as they are compared."""
  if text.isascii():
    return _ASCII_WORD.findall(text.lower())
  return [word.lower() if word.isascii() else _folded(word) for word in _WORD.findall(text)]


def _folded(word: str) -> str:
  """A word without its case, whatever characters its accents are written in."""
  return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())


def _without(text: str, hits: Sequence[Hit]) -> str:
  """The text without the words of hits, and the punctuation behind them."""
  places = [match.span() for match in (_ASCII_WORD if text.isascii() else _WORD).finditer(text)]
  parts, end = list[str](), 0
  for hit in hits:
    if (start := places[hit.start][0]) >= end:
      parts.append(text[end:start])
    end = max(end, _PUNCTUATION.match(text, places[hit.end - 1][1]).end())  # type: ignore[union-attr]
  parts.append(text[end:])
  first, *middle, last = parts
  return "\n\n".join(part for part in (first.rstrip(), *(part.strip() for part in middle), last.lstrip()) if part)


class Index:
  """Where in items runs of words stand: hashes of runs, sorted, for each length that is looked for.

  A word has a number, 0 where no item has it. A run's hash is a polynomial in the numbers modulo 2^64, from sums that
  are made once for all lengths. What hashes alike is compared word by word, so that no hit is by chance.
  """

  def __init__(self, items: Iterable[Item], n: int = 13, shortest: int = 1, most_items: int | None = None):
    self._names, self._starts, numbers = list[str](), list[int](), list[int]()
    self._vocabulary: dict[str, int] = {}
    places, owners = dict[int, list[np.ndarray]](), dict[int, list[np.ndarray]]()
    seen = set[tuple[int, ...]]()
    for name, text in items:
      item = tuple(self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in words(text))
      if len(item) < shortest or item in seen:  # The same passage may stand beside many questions.
        continue
      seen.add(item)
      length = min(n, len(item))
      runs = len(item) - length + 1
      places.setdefault(length, []).append(np.arange(len(numbers), len(numbers) + runs))
      owners.setdefault(length, []).append(np.full(runs, len(self._names)))
      self._names.append(name)
      self._starts.append(len(numbers))
      numbers += item
    self._numbers = np.array(numbers, np.uint64)
    self._runs: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # Of each length the hashes, sorted, and their places.
    sums = hashing.Sums(self._numbers)
    for length in sorted(places, reverse=True):
      where, owner = np.concatenate(places[length]), np.concatenate(owners[length])
      hashes = sums.of_runs(length)[where]
      order = np.lexsort((owner, hashes))
      where, owner, hashes = where[order], owner[order], hashes[order]
      if most_items is not None:
        new = np.r_[True, (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])]  # Items, not places, are counted.
        different, counts = np.unique(hashes[new], return_counts=True)
        kept = counts[np.searchsorted(different, hashes)] <= most_items
        where, hashes = where[kept], hashes[kept]
      self._runs[length] = hashes, where

  @property
  def count(self) -> int:
    """The number of different items."""
    return len(self._names)

  def hits(self, found: Sequence[str], all_hits: bool = True) -> list[Hit]:
    """The hits in a document's words, from left to right, the longer first; or the first alone."""
    get = self._vocabulary.get
    numbers = np.fromiter((get(word, 0) for word in found), np.uint64, len(found))
    sums, hits = hashing.Sums(numbers), list[Hit]()
    for length, (hashes, places) in self._runs.items():
      if length > len(found) or not len(hashes):
        continue
      asked = sums.of_runs(length)
      left = np.searchsorted(hashes, asked)
      for start in np.flatnonzero(hashes[np.minimum(left, len(hashes) - 1)] == asked):
        item = self._item(numbers[start:start + length], hashes, places, left[start])
        if item is not None:
          hits.append(Hit(int(start), int(start) + length, item))
          if not all_hits:
            break  # The first of this length.
    hits.sort(key=lambda hit: (hit.start, -hit.end))
    return hits if all_hits else hits[:1]

  def _item(self, run: np.ndarray, hashes: np.ndarray, places: np.ndarray, left: int) -> str | None:
    """The first item with a run of words, among those of one hash."""
    for i in range(left, len(hashes)):
      if hashes[i] != hashes[left]:
        return None
      if np.array_equal(self._numbers[places[i]:places[i] + len(run)], run):
        return self._names[np.searchsorted(self._starts, places[i], side="right") - 1]
    return None
