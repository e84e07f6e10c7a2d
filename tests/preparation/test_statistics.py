"""Counts of documents, by hand and in parts that are added up."""

import json
import pickle

from hypothesis import given
from hypothesis import strategies as st
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document
from gpt4x.preparation.statistics import Statistics

GROUPS = {"cats": ("cat", "cats"), "dogs": ("dog",)}


def counted(*documents, **parameters):
  statistics = Statistics(**{"groups": GROUPS, "window": 2, **parameters})
  for document in documents:
    statistics.add(document)
  return statistics


def test_counts_by_hand():
  shown = counted(Document("a", "She saw HER cat; his dog sleeps. They said the cats, he's told, sleep.")).to_json()
  assert shown["documents"] == 1 and shown["words"] == 15
  assert shown["pronouns"] == {"feminine": 2, "masculine": 2, "plural": 1}
  assert shown["groups"] == {
      "cats": {"count": 2, "near": {"dog": 1, "he": 1, "her": 1, "his": 1, "saw": 1}},
      "dogs": {"count": 1, "near": {"cat": 1, "his": 1, "sleeps": 1, "they": 1}}}
  assert counted(Document("a", "cat x x y")).to_json(most=1)["groups"]["cats"]["near"] == {"x": 2}
  assert counted(Document("a", "cat x y"), common=("x",)).to_json()["groups"]["cats"]["near"] == {"y": 1}


@pytest.mark.parametrize("url, domain", [
    ("https://www.Example.org:80/a?b", "example.org"), ("http://a.b.co.uk/", "a.b.co.uk"), ("example.org", None),
    ("", None), (None, None), ("http://[", None), (3, None)])
def test_domains(url, domain):
  assert counted(Document("a", fields={"url": url})).to_json()["domains"] == ({domain: 1} if domain else {})


@pytest.mark.parametrize("date, year", [
    ("2020-03-29T09:04:10Z", "2020"), ("29 March 1887", "1887"), (2019, "2019"), ("12019", None),
    (None, None), ("", None)])
def test_years(date, year):
  assert counted(Document("a", fields={"date": date})).to_json()["years"] == ({year: 1} if year else {})


documents = st.builds(lambda words, year: Document("a", " ".join(words), fields={"date": year, "url": "http://a/"}),
                      st.lists(st.sampled_from(["she", "he", "cat", "dog", "sleeps", "the"])),
                      st.sampled_from(["1999", "2001"]))


@given(st.lists(documents, max_size=6), st.integers(0, 6))
def test_parts_in_any_order_give_the_whole(whole, cut):
  parts = [pickle.loads(pickle.dumps(counted(*part))) for part in (whole[cut:], whole[:cut])]
  parts[0].merge(parts[1])
  assert json.dumps(parts[0].to_json()) == json.dumps(counted(*whole).to_json())


def test_none_and_much():
  assert Statistics().to_json()["documents"] == 0
  assert counted(Document("a", "?" * 1_000_000)).words == 0
  assert counted(Document("a", "cat " * 100_000)).to_json()["groups"]["cats"]["count"] == 100_000


def test_what_cannot_be_counted_or_added_is_refused():
  with pytest.raises(UserError, match="other parameters"):
    counted().merge(counted(window=3))
  with pytest.raises(UserError, match="other parameters"):
    counted().merge(Statistics())
  for wrong, named in (({"groups": {"a": ("x",), "b": ("x",)}}, "twice"), ({"window": -1}, "window = -1"),
                       ({"groups": {"a": ("two words",)}}, "no single word")):
    with pytest.raises(UserError, match=named):
      Statistics(**wrong)
