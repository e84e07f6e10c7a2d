"""What became of an input: report.json, and the same as a page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import json
from typing import Any

from gpt4x import html_page, storage
from gpt4x.html_page import count, text
from gpt4x.preparation.counts import Counts
from gpt4x.preparation.pipeline import REPORT
from gpt4x.preparation.sources import media_folder
from gpt4x.preparation.work import Work

PAGE = "report.html"
_BARS = 24  # Of a histogram.


def write(work: Work, gin_text: str) -> Counts:
  """Writes the page, and then the JSON, with which the output is whole; returns what was counted."""
  folder, counts = storage.path(work.folder), work.counts()
  statistics = found.to_json() if (found := work.counted_statistics()) else None
  steps = [name for name, _ in work.steps]
  content = {"steps": steps, **counts.to_json(), "statistics": statistics, "gin": gin_text}
  if any(media_folder.has_media(file.path) for shard in work.shards for file in shard):
    content["media_folder"] = work.shards[0][0].folder  # Where the paths of media in the output count from.
  storage.write(folder / PAGE, page(steps, counts, statistics, gin_text).encode())
  storage.write(folder / REPORT, json.dumps(content, indent=1, ensure_ascii=False).encode(errors="replace"))
  return counts


def summary(counts: Counts) -> str:
  """What was kept, in a line."""
  (read, read_bytes), (kept, kept_bytes) = counts.read, counts.kept
  unreadable = f"; {counts.unreadable[0]:,} records could not be read" if counts.unreadable[0] else ""
  return (f"kept {kept:,} of {read:,} documents, {size(kept_bytes)} of text from {size(read_bytes)} of"
          f" input{unreadable}")


def page(steps: Sequence[str], counts: Counts, statistics: Mapping[str, Any] | None, gin_text: str) -> str:
  """The page of a preparation."""
  (read, read_bytes), (kept, kept_bytes), said = counts.read, counts.kept, summary(counts)
  parts = [
      "<h1>Prepared documents</h1>", f'<p class="lead">{text(said[0].upper() + said[1:])}.</p>',
      html_page.tiles([("documents kept", count(kept)), ("documents read", count(read)), ("share", share(kept, read)),
                       ("text kept", size(kept_bytes))]),
      "<h2>What each step dropped</h2>", html_page.bars(_reasons(steps, counts)),
      "<p class='note'>Documents by step and reason; bars are shares of all that were read.</p>"]
  if counts.cut:
    parts += ["<h2>What each step cut</h2>", html_page.bars(
        (step, size(counts.cut[step]), max(0, counts.cut[step]) / max(1, read_bytes))
        for step in steps if step in counts.cut), "<p class='note'>Bytes of documents that went on.</p>"]
  for measure, binned in sorted(counts.histograms.items()):
    parts += [f"<h2>Kept documents by {text(measure)}</h2>", html_page.bars(_histogram(binned))]
  if statistics:
    parts += _statistics(statistics)
  parts += ["<h2>Examples of what was dropped</h2>", *_examples(steps, counts)]
  if counts.unreadable[0]:
    parts += ["<h2>Not readable</h2>", *(f"<pre>{text(message)}</pre>" for message in counts.unreadable[1])]
  parts.append(f"<details><summary>Configuration (gin)</summary><pre>{text(gin_text.strip())}</pre></details>")
  return html_page.page("Prepared documents", parts)


def _reasons(steps: Iterable[str], counts: Counts) -> Iterator[tuple[str, str, float]]:
  for step in steps:
    for reason, (documents, _) in sorted(counts.dropped.get(step, {}).items(), key=lambda item: -item[1][0]):
      yield f"{step}: {reason.replace('_', ' ')}", f"{documents:,}", documents / max(1, counts.read[0])


def _histogram(binned: Mapping[str, int]) -> Iterator[tuple[str, str, float]]:
  """The bins in the order of numbers, or the most frequent names."""
  try:
    order = sorted(binned, key=float)
  except ValueError:
    order = sorted(binned, key=lambda bin_: (-binned[bin_], bin_))
  for bin_ in order[:_BARS]:
    yield bin_, f"{binned[bin_]:,}", binned[bin_] / max(binned.values())


def _statistics(found: Mapping[str, Any]) -> Iterator[str]:
  """Who is spoken of, and from where and when documents are."""
  yield f"<h2>Who is spoken of</h2>{html_page.bars(_shares(found['pronouns']))}"
  yield "<p class='note'>Pronouns; bars are shares of them. Below, words near the names of groups, the most frequent"
  yield "first: counts of words, which say nothing of what was meant.</p>"
  yield html_page.table((f"{group}, {of['count']:,}", ", ".join(list(of["near"])[:20]))
                        for group, of in found["groups"].items() if of["count"])
  for what, name in (("Domains", "domains"), ("Years", "years")):
    if found[name]:
      yield f"<h2>{what}</h2>{html_page.bars(itertools.islice(_shares(found[name]), _BARS))}"


def _shares(counted: Mapping[str, int]) -> Iterator[tuple[str, str, float]]:
  total = max(1, sum(counted.values()))
  return ((name, f"{number:,}", number / total) for name, number in counted.items())


def _examples(steps: Iterable[str], counts: Counts) -> Iterator[str]:
  for step in steps:
    for reason, shown in counts.examples.get(step, {}).items():
      found = "".join(f"<pre><b>{text(_why(one))}</b>\n{text(one['text'])}</pre>" for one in shown)
      yield f"<details><summary>{text(step)}: {text(reason.replace('_', ' '))}</summary>{found}</details>"


def _why(one: Mapping[str, Any]) -> str:
  value = "" if one["value"] is None else f", {one['value']}"
  return f"{one['name']}{value}" + (f", like {one['match']}" if one["match"] else "")


def share(part: int, whole: int) -> str:
  return f"{part / whole:.1%}" if whole else "-"


def size(number: int) -> str:
  """Bytes with a unit."""
  for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if abs(number) >= factor:
      return f"{number / factor:.3g} {unit}"
  return f"{number} B"
