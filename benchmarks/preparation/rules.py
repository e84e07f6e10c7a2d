"""Decisions of the rules and of datatrove's, document by document: whether it is kept.

Documents are articles, what stands between their blank lines, and crawled pages, of at least 50 words: shorter ones go
by Gopher's first rule. Scripts without blanks are left out.

  rules_agree            the share of equal decisions of Gopher's two rules, C4 by the paper and with the numbers of
                         TensorFlow Datasets, and FineWeb, where both take what stands between blanks for words
  rules_agree/own_words  the same, where datatrove takes spaCy's words; for information
  rules_agree/minhash    the share of equal decisions about pairs that are more alike than 0.9, or less than 0.3; what
                         lies between is chance for both, and ours looks at the similarity itself as well

    python -m benchmarks.preparation.rules --data=DIR --peer=PYTHON [--dry_run]
"""

from collections.abc import Callable, Iterator, Sequence
import pathlib
import random
import re
import tempfile

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.preparation import near_duplicates, scripts, texts

ARTICLES, PARTED, PAIRS = 200, 60, 200
LEAST_WORDS = 50
_CRAWLED = "*.warc.gz", "*.wet.gz", "cc_*.jsonl.gz"  # In the folder `preparation` of the public sets.


def rows(given: scripts.Given) -> Iterator[Row]:
  python = given.peers[scripts.DATATROVE]
  documents = harness.in_a_process(spaced, texts.articles(given.data, ARTICLES), given.data)
  ours = decided(our_rules, documents)
  yield Row("preparation/rules_agree", agreement(ours, decided(datatrove_rules, (documents, True), python)), "share",
            goal="value >= 0.98")
  yield Row("preparation/rules_agree/own_words", agreement(ours, decided(datatrove_rules, (documents, False), python)),
            "share")
  both = pairs(documents)
  yield Row("preparation/rules_agree/minhash", agreement(decided(our_minhash, both), decided(
      datatrove_minhash, both, python)), "share", goal="value >= 0.99")


def decided(make: harness.Make, case: object, python: str | None = None) -> harness.Round:
  side = harness.Side(make, case, python=python)
  try:
    return {name: kept for name, kept in side.round().items() if name != "peak_memory"}
  finally:
    side.close()


def agreement(ours: harness.Round, theirs: harness.Round) -> float:
  """The share of decisions, by name, that are equal."""
  assert ours.keys() == theirs.keys()
  return sum(ours[name] == theirs[name] for name in ours) / len(ours)


def spaced(articles: Sequence[str], data: str) -> list[str]:
  """Articles, parts of some, and crawled pages, that are long enough and have blanks between their words."""
  from gpt4x.preparation.rules.words import split
  parts = [part for text in articles[:PARTED] for part in re.split(r"\n\s*\n", text)]
  # WikiText's "<unk>" would be three words of spaCy's, of which one has letters.
  words = [(text, split(text)) for text in (text.replace("<unk>", "unknown") for text in (
      *articles, *parts, *crawled(data)))]
  return [text for text, (found, unspaced) in words if len(found) >= LEAST_WORDS and not unspaced]


def crawled(data: str) -> Iterator[str]:
  from gpt4x.preparation import sources
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.extraction import Extract
  folder = pathlib.Path(data, "preparation")
  for path in sorted(path for pattern in _CRAWLED for path in folder.glob(pattern)):
    for document in map(Extract(mode="fast"), sources.read(str(path), path.name, print)):
      if isinstance(document, Document):
        yield document.text


def our_rules(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.rules.c4 import C4
  from gpt4x.preparation.rules.fineweb import FineWeb
  from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition
  rules = {"repetition": GopherRepetition(), "quality": GopherQuality(), "c4_paper": C4(reading="paper"),
           "c4_tfds": C4(), "fineweb": FineWeb()}
  return lambda: {f"{name}/{number}": float(isinstance(rule(Document("", text)), Document))
                  for name, rule in rules.items() for number, text in enumerate(documents)}


def datatrove_rules(case: tuple[Sequence[str], bool]) -> Callable[[], harness.Round]:
  """With its own words, or with what stands between blanks."""
  from datatrove.data import Document
  from datatrove.pipeline.filters import (
    C4QualityFilter,
    fineweb_quality_filter,
    FineWebQualityFilter,
    gopher_quality_filter,
    gopher_repetition_filter,
    GopherQualityFilter,
    GopherRepetitionFilter,
  )
  documents, at_blanks = case
  if at_blanks:
    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
      module.split_into_words = lambda text, language: text.split()
  rules = {"repetition": GopherRepetitionFilter(), "quality": GopherQualityFilter(), "c4_paper": C4QualityFilter(),
           "c4_tfds": C4QualityFilter(min_num_sentences=3, min_words_per_line=5), "fineweb": FineWebQualityFilter()}
  return lambda: {f"{name}/{number}": float(rule.filter(Document(text=text, id="0")) is True)
                  for name, rule in rules.items() for number, text in enumerate(documents)}


def pairs(documents: Sequence[str]) -> list[tuple[str, str]]:
  """So many pairs of each kind, of documents and copies of which few words are changed, or many."""
  draw, found = random.Random(0), list[tuple[str, str]]()
  for most, alike in ((0.005, lambda value: value > 0.9), (0.5, lambda value: value < 0.3)):
    of_kind = list[tuple[str, str]]()
    while len(of_kind) < PAIRS:
      text = draw.choice(documents)
      copy = texts.changed(text, draw.uniform(0, most), draw)
      if alike(near_duplicates.jaccard(text, copy)):
        of_kind.append((text, copy))
    found += of_kind
  return found


def our_minhash(both: Sequence[tuple[str, str]]) -> Callable[[], harness.Round]:
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.duplicates.near import NearDuplicates
  join = NearDuplicates()

  def alike(one: str, other: str) -> bool:
    first, last = (join.features(Document("", text)) for text in (one, other))
    return bool(set(join.keys_of(first)[0].tolist()) & set(join.keys_of(last)[0].tolist())
                ) and join.similarity(first, last) >= join.threshold

  return lambda: {str(number): float(alike(*pair)) for number, pair in enumerate(both)}


def datatrove_minhash(both: Sequence[tuple[str, str]]) -> Callable[[], harness.Round]:
  from datatrove.pipeline.dedup import MinhashDedupSignature
  from datatrove.pipeline.dedup.minhash import MinhashConfig
  step = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))

  def alike(*pair: str) -> bool:
    one, other = (step.get_signature(step.get_shingles(text)) for text in pair)
    return any(mine == theirs for mine, theirs in zip(one, other, strict=True))

  return lambda: {str(number): float(alike(*pair)) for number, pair in enumerate(both)}


if __name__ == "__main__":
  scripts.main(rows, peers=[scripts.DATATROVE], rounds=None)
