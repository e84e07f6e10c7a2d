"""What became of the documents: counted in each shard, and added up."""

from collections.abc import Iterable, Mapping
import dataclasses
import math
from typing import Any, Self

from gpt4x.preparation.document import Document, Dropped

EXAMPLES, EXCERPT = 3, 400  # Documents that are shown of each reason, and their characters.


@dataclasses.dataclass
class Counts:
  """Documents and bytes of text: read, dropped by each step and reason, cut by each step, and kept.

  Attributes:
    read, kept: [documents, bytes].
    dropped: the same by step and reason.
    cut: bytes by which a step made texts shorter, or longer where that is negative.
    unreadable: records that could not be read, and the first messages about them.
    histograms: documents by bin, of each measure.
    examples: {"name", "value", "match", "text"} by step and reason, the first ones.
  """

  read: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
  kept: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
  dropped: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)
  cut: dict[str, int] = dataclasses.field(default_factory=dict)
  unreadable: list[Any] = dataclasses.field(default_factory=lambda: [0, []])
  histograms: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
  examples: dict[str, dict[str, list[dict[str, Any]]]] = dataclasses.field(default_factory=dict)

  def note_read(self, document: Document) -> None:
    self.read[0] += 1
    self.read[1] += size(document)

  def note_unreadable(self, message: str) -> None:
    self.unreadable[0] += 1
    self.unreadable[1] = [*self.unreadable[1], message][:EXAMPLES]

  def note_dropped(self, step: str, document: Document, why: Dropped) -> None:
    _add(self.dropped.setdefault(step, {}).setdefault(why.reason, [0, 0]), [1, size(document)])
    shown = self.examples.setdefault(step, {}).setdefault(why.reason, [])
    if len(shown) < EXAMPLES:
      shown.append({"name": document.name, "value": why.value, "match": why.match, "text": document.text[:EXCERPT]})

  def note_cut(self, step: str, before: Document, after: Document) -> None:
    if before.text != after.text:
      self.cut[step] = self.cut.get(step, 0) + size(before) - size(after)

  def note_kept(self, document: Document) -> None:
    _add(self.kept, [1, size(document)])
    for measure, bin_ in bins(document):
      counted = self.histograms.setdefault(measure, {})
      counted[bin_] = counted.get(bin_, 0) + 1

  def add(self, other: Self) -> None:
    """Adds those of a later shard."""
    _add(self.read, other.read)
    _add(self.kept, other.kept)
    for step, reasons in other.dropped.items():
      for reason, counted in reasons.items():
        _add(self.dropped.setdefault(step, {}).setdefault(reason, [0, 0]), counted)
        shown = self.examples.setdefault(step, {}).setdefault(reason, [])
        shown += other.examples[step][reason][:EXAMPLES - len(shown)]
    for step, count in other.cut.items():
      self.cut[step] = self.cut.get(step, 0) + count
    self.unreadable = [self.unreadable[0] + other.unreadable[0],
                       [*self.unreadable[1], *other.unreadable[1]][:EXAMPLES]]
    for measure, binned in other.histograms.items():
      counted_so_far = self.histograms.setdefault(measure, {})
      for bin_, count in binned.items():
        counted_so_far[bin_] = counted_so_far.get(bin_, 0) + count

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, found: Mapping[str, Any]) -> Self:
    return cls(**found)


def total(counts: Iterable[Counts]) -> Counts:
  found = Counts()
  for one in counts:
    found.add(one)
  return found


def size(document: Document) -> int:
  """Bytes of text; of what it is to be extracted from, before that."""
  return len(document.text.encode(errors="replace")) or len(document.content)


def bins(document: Document) -> list[tuple[str, str]]:
  """(measure, bin) of a document: its length, and what steps found out about it."""
  found = [("characters", str(1 << max(0, len(document.text) - 1).bit_length()))]
  for name, value in document.fields.items():
    if name == "language":
      found.append((name, str(value)))
    elif name == "quality" or name.endswith("_probability"):
      found.append((name, f"{math.floor(20 * float(value)) / 20:.2f}"))
  return found


def _add(to: list[int], what: list[int]) -> None:
  to[:] = [a + b for a, b in zip(to, what)]
