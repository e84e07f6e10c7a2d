"""Personal data in sentences with made-up values, and in a body of text that has few.

The sentences are the 1,500 of Presidio's synthetic data set, version 2, as their templates were filled: many are in
the way in which people write, and the telephone numbers are those of some thirty countries. What is found and what is
there are the same if they overlap; a value is of one kind.

  pii_email_recall, pii_card_recall, pii_phone_recall, pii_iban_recall, pii_ip_recall, pii_ssn_recall
                        the share of values that are found
  .../precision         the share of what is found that is a value of that kind
  pii_false_per_mb      in Python's standard library, hits a megabyte that are no values. The sources have many
                        addresses of authors and of tests, so that each hit is judged by what finders do not use: a mail
                        address counts as one if Python's own parser takes it and no "user:" stands before it; any other
                        value if its document speaks of its kind elsewhere ("phone", "host", "key")

    python -m benchmarks.preparation.personal_data --data=DIR [--dry_run]
"""

import collections
from collections.abc import Iterable, Iterator
from email import headerregistry
import json
import pathlib
import re
import sysconfig
from typing import Any

from benchmarks.harness import Row
from benchmarks.preparation import scripts
from gpt4x.preparation.personal_data import PersonalData, Span

# The data set's names, and the goals: the least recall and precision.
KINDS = {"email": ("EMAIL_ADDRESS", 1, 0.98), "card": ("CREDIT_CARD", 1, 0.98), "phone": ("PHONE_NUMBER", 0.6, 0.8),
         "iban": ("IBAN_CODE", 1, 0.98), "ip": ("IP_ADDRESS", 1, 0.98), "ssn": ("US_SSN", 0.95, 0.98)}
# How documents speak of kinds.
SPEAKS = {"phone": r"phone|\btel\b|\bfax|mobile|\bcall", "card": r"\bcard|visa|payment", "iban": r"iban|\bbank",
          "ssn": r"social security|\bssn", "secret": r"key|token|secret|passw|credential",
          "ip": r"(?<![a-z])ip(?:v[46])?(?![a-z])|ipaddress|ipv[46]|inet|socket|\bhost|received:"}


def rows(given: scripts.Given) -> Iterator[Row]:
  records = json.loads(pathlib.Path(given.data, "preparation", "synth_dataset_v2.json").read_text())
  rule = PersonalData()
  found = [rule.spans(record["full_text"]) for record in records]
  for kind, (name, recall, precision) in KINDS.items():
    shares = recall_and_precision(records, found, kind, name)
    yield Row(f"preparation/pii_{kind}_recall", shares[0], "share", goal=f"value >= {recall}")
    yield Row(f"preparation/pii_{kind}_recall/precision", shares[1], "share", goal=f"value >= {precision}")
  yield Row("preparation/pii_false_per_mb", false_per_mb(rule, standard_library()), "hits/MB", goal="value <= 1")


def recall_and_precision(records: Iterable[dict[str, Any]], found: Iterable[list[Span]], kind: str, name: str
                         ) -> tuple[float, float]:
  """Of the values of a kind those that a hit overlaps, and of the hits those that overlap a value."""
  counts: collections.Counter[str] = collections.Counter()
  for record, spans in zip(records, found, strict=True):
    values = [(one["start_position"], one["end_position"]) for one in record["spans"] if one["entity_type"] == name]
    hits = [(span.start, span.end) for span in spans if span.kind == kind]
    counts.update(values=len(values), found=_overlapping(values, hits))
    counts.update(hits=len(hits), right=_overlapping(hits, values))
  return counts["found"] / max(1, counts["values"]), counts["right"] / max(1, counts["hits"])


def _overlapping(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
  return sum(any(start < other_end and other_start < end for other_start, other_end in others) for start, end in some)


def standard_library() -> Iterator[str]:
  """Sources and texts of the running Python's standard library."""
  from gpt4x.data import python_stdlib
  for _, text in python_stdlib.documents(pathlib.Path(sysconfig.get_path("stdlib"))):
    yield text


def false_per_mb(rule: PersonalData, texts: Iterable[str]) -> float:
  """Hits a megabyte of UTF-8 that are no values; each kind of them is printed once with the text around it."""
  size, counts, values = 0, collections.Counter[str](), 0
  for text in texts:
    size += len(text.encode())
    for span in rule.spans(text):
      if is_value(text, span):
        values += 1
        continue
      if not counts[span.kind]:
        print(f"false: {span.kind} {text[max(0, span.start - 20):span.end + 20]!r}", flush=True)
      counts[span.kind] += 1
  print(f"{values:,} values, and false ones {dict(counts)} in {size / 1e6:.1f} MB", flush=True)
  return counts.total() / max(1, size) * 1e6


def is_value(text: str, span: Span) -> bool:
  """Whether a hit is a value by what stands around it."""
  if span.kind == "email":
    local, domain = text[span.start:span.end].split("@")
    try:
      headerregistry.Address(username=local, domain=domain.encode("idna").decode())
    except (ValueError, IndexError):
      return False
    return not re.search(r"(?<=\w)(?<!mailto)(?<!sip):$", text[max(0, span.start - 10):span.start])
  return re.search(SPEAKS[span.kind], f"{text[:span.start]} {text[span.end:]}", re.IGNORECASE) is not None


if __name__ == "__main__":
  scripts.main(rows, rounds=None)
