"""The rules of Gopher, C4 and FineWeb on one core, in MB of text a second.

  filters        ours and datatrove's: repetition, quality, C4 and FineWeb, each on every document
  filters_dolma  ours and dolma's taggers of C4 and Gopher, which only count; ours with the same two

    python -m benchmarks.preparation.filters --data=DIR [--peer=PYTHON] [--dolma=PYTHON] [--rounds=5] [--dry_run]
"""

from collections.abc import Callable, Iterator, Sequence
import time

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.preparation import scripts, texts

DOCUMENTS = 120


def rows(given: scripts.Given) -> Iterator[Row]:
  documents = texts.articles(given.data, DOCUMENTS)
  for name, ours, peer, flag, goal in (
      ("filters", our_filters, datatrove_filters, scripts.DATATROVE, "ratio >= 2"),
      ("filters_dolma", our_taggers, dolma_taggers, scripts.DOLMA, "ratio >= 1.5")):
    if python := given.peers.get(flag):
      sides = harness.alternate({"ours": ours, "peer": peer}, documents, given.rounds, pythons={"peer": python})
      yield harness.compare(f"preparation/{name}", "MB/s", sides["ours"], sides["peer"], "speed", goal=goal)


def timed(documents: Sequence[str], call: Callable[[str], object]) -> Callable[[], harness.Round]:
  """A round in which `call` sees all documents."""
  size = texts.size(documents)

  def run() -> harness.Round:
    started = time.perf_counter()
    for text in documents:
      call(text)
    return {"speed": size / (time.perf_counter() - started)}

  return run


def our_filters(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from gpt4x.preparation.rules.c4 import C4
  from gpt4x.preparation.rules.fineweb import FineWeb
  from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition
  return _ours(documents, GopherRepetition(), GopherQuality(), C4(terminal_punctuation=False), FineWeb())


def our_taggers(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from gpt4x.preparation.rules.c4 import C4
  from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition
  return _ours(documents, C4(), GopherRepetition(), GopherQuality())


def _ours(documents: Sequence[str], *rules: Callable) -> Callable[[], harness.Round]:
  from gpt4x.preparation.document import Document

  def call(text: str) -> None:
    document = Document("", text)
    for rule in rules:
      rule(document)

  return timed(documents, call)


def datatrove_filters(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from datatrove.data import Document
  from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
  )
  rules = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
           FineWebQualityFilter()]

  def call(text: str) -> None:
    for rule in rules:
      rule.filter(Document(text=text, id="0"))

  return timed(documents, call)


def dolma_taggers(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from dolma.core.data_types import Document
  from dolma.core.registry import TaggerRegistry
  taggers = [TaggerRegistry.get(name)() for name in ("c4_v2", "gopher_v1")]

  def call(text: str) -> None:
    for tagger in taggers:
      tagger.predict(Document(source="", version="", id="0", text=text))

  return timed(documents, call)


if __name__ == "__main__":
  scripts.main(rows, peers=[scripts.DATATROVE, scripts.DOLMA], rounds=5)
