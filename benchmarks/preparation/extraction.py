"""The main text of pages, on the 990 annotated ones that trafilatura is evaluated on (its tests/evaldata.json).

Each page has a few segments that its text must have and a few that it must not. A segment counts as had if it stands in
the text, blanks aside; F1 is over all segments of all pages. The bare library is of the same version, in the same run,
and called as in its own evaluation: with tables and without comments.

  extraction_f1             Extract.mode = 'standard', beside bare trafilatura
  extraction_f1_no_tables   the same without tables; for information
  extraction_fast_f1        Extract.mode = 'fast'
  extraction_fast_speed     pages/s of the fast mode beside those of the standard one, child process included

    python -m benchmarks.preparation.extraction --data=DIR [--rounds=3] [--dry_run]

DIR is the folder `tests` of a copy of adbar/trafilatura, with evaldata.json and the folders eval and cache.
"""

from collections.abc import Callable, Iterator, Mapping
import json
import pathlib
from typing import Any

from benchmarks import harness
from benchmarks.harness import Round, Row
from benchmarks.preparation import scripts

_TIMED = 200  # Pages of a round.


def rows(given: scripts.Given) -> Iterator[Row]:
  data = given.data
  bare = harness.in_a_process(bare_f1, data)
  for name, options, peer, goal in (
      ("extraction_f1", {}, bare, f"value >= {bare - 0.002:.4f}"),
      ("extraction_f1_no_tables", {"tables": False}, bare, ""),
      ("extraction_fast_f1", {"mode": "fast"}, bare, "value >= 0.80")):
    value = harness.in_a_process(rule_f1, data, options)
    yield Row(f"preparation/{name}", value, "F1", peer, value / peer, goal=goal)
  if given.rounds:
    found = harness.alternate({"fast": fast, "standard": standard}, data, given.rounds)
    yield harness.compare("preparation/extraction_fast_speed", "pages/s", found["fast"], found["standard"], "pages",
                          goal="ratio >= 5")


def bare_f1(data: str) -> float:
  import trafilatura
  return f1(data, lambda content: trafilatura.extract(content, include_comments=False, include_tables=True) or "")


def rule_f1(data: str, options: Mapping[str, Any]) -> float:
  return f1(data, _rule(options))


def f1(data: str, extract: Callable[[bytes], str]) -> float:
  """F1 of the segments that are had, over all pages."""
  had = missed = wrong = 0
  for page, content in _pages(data):
    text = _words(extract(content))
    right = sum(_words(segment) in text for segment in page["with"])
    had, missed = had + right, missed + len(page["with"]) - right
    wrong += sum(_words(segment) in text for segment in page["without"])
  return 2 * had / (2 * had + missed + wrong)


def fast(data: str) -> Callable[[], Round]:
  return _timed(data, {"mode": "fast"})


def standard(data: str) -> Callable[[], Round]:
  return _timed(data, {"mode": "standard"})


def _timed(data: str, options: Mapping[str, Any]) -> Callable[[], Round]:
  extract = _rule(options)
  pages = [content for _, content in _pages(data)][::990 // _TIMED][:_TIMED]
  extract(pages[0])  # Starts the child.

  def read() -> None:
    for content in pages:
      extract(content)

  return lambda: {"pages": len(pages) / harness.timed(read)}


def _rule(options: Mapping[str, Any]) -> Callable[[bytes], str]:
  """The text that the rule makes of a page; empty if it drops the page."""
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.extraction import Extract

  rule = Extract(**options)
  return lambda content: getattr(rule(Document("page:1", content=content)), "text", "")


def _pages(data: str) -> Iterator[tuple[dict[str, Any], bytes]]:
  folder = pathlib.Path(data)
  for page in json.loads((folder / "evaldata.json").read_text("utf-8")).values():
    places = [folder / place / page["file"] for place in ("cache", "eval")]
    yield page, next(place for place in places if place.is_file()).read_bytes()


def _words(text: str) -> str:
  return " ".join(text.split())


if __name__ == "__main__":
  scripts.main(rows, "tests of adbar/trafilatura")
