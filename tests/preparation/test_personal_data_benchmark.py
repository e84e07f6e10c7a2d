"""What the benchmark of personal data counts, by hand."""

import pytest

pytest.importorskip("re2")
pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from benchmarks.preparation import personal_data
from gpt4x.preparation.personal_data import PersonalData, Span


def test_what_overlaps_is_found():
  spans = [{"entity_type": "E", "start_position": 0, "end_position": 4},
           {"entity_type": "E", "start_position": 10, "end_position": 12},
           {"entity_type": "F", "start_position": 20, "end_position": 30}]
  found = [[Span(3, 6, "email"), Span(4, 10, "email"), Span(12, 13, "email"), Span(10, 12, "ip")], []]
  records = [{"spans": spans}, {"spans": []}]
  assert personal_data.recall_and_precision(records, found, "email", "E") == (1 / 2, 1 / 3)
  assert personal_data.recall_and_precision(records, found, "ip", "F") == (0, 0)
  assert personal_data.recall_and_precision([], [], "ip", "F") == (0, 0)


@pytest.mark.parametrize("text, value, expected", [
    ("by joe@x.org", "joe@x.org", True), ("mailto:joe@x.org", "joe@x.org", True), ("a:b@x.org", "b@x.org", False),
    ("an IP 93.184.216.34", "93.184.216.34", True), ("a ship 93.184.216.34", "93.184.216.34", False)])
def test_hits_are_judged_by_what_stands_around_them(text, value, expected):
  start = text.index(value)
  assert personal_data.is_value(text, Span(start, start + len(value), "email" if "@" in value else "ip")) == expected


def test_false_hits_are_counted_by_the_megabyte(capsys):
  texts = ["joe@x.org " + "é" * 1000, "4111111111111111 " * 3]
  assert personal_data.false_per_mb(PersonalData(), texts) == pytest.approx(3 / (10 + 2000 + 51) * 1e6)
  assert "1 values, and false ones {'card': 3}" in capsys.readouterr().out
