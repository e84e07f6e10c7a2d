"""Documents with parts of evaluations, against a search that compares every run of words with every item."""

import gzip
import json
import pickle
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation import contamination
from gpt4x.preparation.contamination import Decontaminate, Hit, Index, Item, words
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing

LONG = "Which of these rivers flows through the largest number of capital cities before it reaches the sea?"
SHORT = "Who wrote the Odyssey, and when?"  # Six words.


@pytest.fixture(name="items")
def _items(tmp_path):
  def write(*records, name="items.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(tmp_path / name)

  return write


def rule(items, *records, **parameters):
  return Decontaminate(items=items(*(records or ({"question": LONG}, {"question": SHORT}))), **parameters)


def document(text):
  return Document("crawl:7", text, fields={"url": "u"})


def test_thirteen_words_in_a_row_are_a_hit_and_twelve_are_none(items, tmp_path):
  decontaminate, parts = rule(items), LONG.split()
  name = f"{tmp_path}/items.jsonl:1"
  thirteen = " ".join(parts[2:15])
  assert decontaminate(document(f"I ask {thirteen} or so")) == Dropped("contamination", thirteen.lower(), name)
  clean = document("I ask " + " ".join(parts[2:14]))
  assert decontaminate(clean) is clean


def test_an_item_of_fewer_words_is_a_hit_when_it_is_whole(items, tmp_path):
  decontaminate, name = rule(items), f"{tmp_path}/items.jsonl:2"
  assert decontaminate(document("... WHO wrote (the Odyssey), and\nwhen ...")).match == name
  for text in ("Who wrote the Odyssey, and whenever?", "Who wrote the Odyssey?", "awho wrote the Odyssey and when"):
    clean = document(text)
    assert decontaminate(clean) is clean


@pytest.mark.parametrize("item, text", [
    ("Straße im Café von İzmir, bitte", "STRASSE im cafe\u0301 von i\u0307zmir bitte"),
    ("naïve café à la crème", unicodedata.normalize("NFD", "NAÏVE CAFÉ À LA CRÈME")),
    ("one two three four five", "one\r\ntwo\u2028three—four_five"),
    ("don't do it this way", "Don\u2019t do it -- this way"),
    ("a 😀 b c d e", "a b c d e"), ("他们去了北京", "昨天他们，去了北京。"), ("ยังไม่มี", "ก็ยังไม่มีใคร"),
    ("हिन्दी में एक दो तीन", "हिन्दी में, एक दो तीन।"),
    ("བོད་སྐད་ཡིག", "བོད། སྐད། ཡིག"), ("人々のｶﾀｶﾅ", "人々のカタカナ")])
def test_case_punctuation_and_forms_of_accents_make_no_difference(items, item, text):
  assert isinstance(rule(items, {"text": item})(document(f"x {text} y")), Dropped)


def test_vowels_of_india_are_parts_of_their_words():
  assert words("हिन्दी में") == ["हिन्दी", "में"]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "word", "?", "\ud800", "北"])
@pytest.mark.parametrize("cut", [False, True])
def test_short_documents_are_clean(items, text, cut):
  clean = document(text)
  assert rule(items, cut=cut)(clean) is clean


def test_cut_words_leave_a_blank_line_and_the_items_beside_the_text(items, tmp_path):
  decontaminate = rule(items, cut=True)
  cleaned = decontaminate(document(f"  Before 😀: {SHORT} Between; {LONG}\nBehind, \u00e9. {SHORT}  "))
  assert cleaned.text == "  Before 😀:\n\nBetween;\n\nBehind, é."
  assert cleaned.fields == {"url": "u", "contamination": [f"{tmp_path}/items.jsonl:2", f"{tmp_path}/items.jsonl:1"]}
  assert decontaminate(cleaned) is cleaned


def test_a_document_with_nothing_else_is_dropped(items, tmp_path):
  assert rule(items, cut=True)(document(f"{SHORT}\n{SHORT}")) == Dropped(
      "contamination", match=f"{tmp_path}/items.jsonl:2")


def test_what_a_cut_brings_together_is_cut_as_well(items):
  decontaminate = rule(items, {"text": "a b c d e"}, cut=True, n=5)
  assert decontaminate(document("x a b a b c d e c d e y")).text == "x\n\ny"


def test_items_in_items_are_cut_a_bounded_number_of_times(items):
  decontaminate = rule(items, {"text": "a b c d e"}, cut=True, n=5)
  nested = lambda depth: document("x " + "a b " * depth + "a b c d e" + " c d e" * depth + " y")
  assert decontaminate(nested(10)).text == "x\n\ny"
  assert isinstance(decontaminate(nested(1000)), Dropped)


def test_all_strings_of_the_fields_are_items(items):
  record = {"question": "one two three four five", "prompt": ["six seven eight nine ten", 3], "answer": SHORT, "id": 1}
  decontaminate = rule(items, record)
  assert isinstance(decontaminate(document("one two three four five")), Dropped)
  assert isinstance(decontaminate(document("six seven eight nine ten")), Dropped)
  assert isinstance(decontaminate(document(SHORT)), Document)
  assert isinstance(rule(items, record, fields=("answer",))(document(SHORT)), Dropped)


def test_items_are_in_several_files_packed_or_not(items, tmp_path):
  items({"text": SHORT}, name="a.jsonl")
  (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'\n{"text": "one two three four five"}\n'))
  decontaminate = Decontaminate(items=[f"{tmp_path}/*.jsonl", f"{tmp_path}/*.gz"])
  assert decontaminate(document(SHORT)).match == f"{tmp_path}/a.jsonl:1"
  assert decontaminate(document("one two three four five")).match == f"{tmp_path}/b.jsonl.gz:2"


def test_too_short_items_are_left_and_the_first_of_equal_ones_is_named(items, tmp_path):
  decontaminate = rule(items, {"text": "Why not?"}, {"text": SHORT}, {"text": SHORT.upper()})
  assert isinstance(decontaminate(document("Why not? Yes.")), Document)
  assert decontaminate(document(SHORT)).match == f"{tmp_path}/items.jsonl:2"
  assert isinstance(rule(items, {"text": "Why not?"}, shortest=2)(document("Why not? Yes.")), Dropped)


def test_instructions_that_many_items_share_are_no_hit(items):
  instruction = "Choose the best answer to the following question and explain why you chose it."
  records = [{"text": f"{instruction} Question {number} is about {number}"} for number in range(4)]
  # A passage that stands beside many questions, and one run of words often in one item, are each one item's.
  passage = "This passage is about the way in which sheep were counted in older times"
  records += [{"text": passage}] * 9 + [{"text": f"{passage[:5]} {'la ' * 40}"}]
  text = document(f"They say: {instruction}")
  assert isinstance(rule(items, *records)(text), Dropped)
  decontaminate = rule(items, *records, most_items=3)
  assert decontaminate(text) is text
  assert isinstance(decontaminate(document(passage)), Dropped)
  assert isinstance(decontaminate(document("la " * 13)), Dropped)
  assert isinstance(decontaminate(document(f"{instruction} Question 2 is about 2")), Dropped)


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@settings(deadline=None, max_examples=300)
@given(st.lists(WORDS, max_size=5), st.lists(st.sampled_from("abcx"), max_size=20), st.integers(1, 5),
       st.integers(1, 3))
def test_hits_are_those_of_a_slow_search(items, found, n, shortest):
  expected, seen = {}, set()
  for number, item in enumerate(items):
    if len(item) < shortest or tuple(item) in seen:
      continue
    seen.add(tuple(item))
    length = min(n, len(item))
    for start in range(len(found) - length + 1):
      if any(item[i:i + length] == found[start:start + length] for i in range(len(item) - length + 1)):
        expected.setdefault((start, start + length), str(number))
  index = Index([Item(str(number), " ".join(item)) for number, item in enumerate(items)], n, shortest)
  hits = index.hits(found)
  assert {(hit.start, hit.end): hit.item for hit in hits} == expected
  assert hits == sorted(hits, key=lambda hit: (hit.start, -hit.end))
  assert index.hits(found, all_hits=False) == hits[:1]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([
    "a b a", " c c ", "a", "b", "c", "d", " ", "\n", "\r\n", "\u2028", ".", "(", "É", "e\u0301", "İ", "ß", "😀"]),
                max_size=30).map("".join))
def test_a_cut_text_has_no_hits_and_other_words_stay(text):
  index = Index([Item("1", "a b a"), Item("2", "c c"), Item("3", "d a b c")], n=3)
  if hits := index.hits(words(text)):
    kept = [word for place, word in enumerate(words(text)) if not any(hit.start <= place < hit.end for hit in hits)]
    assert words(contamination._without(text, hits)) == kept


def test_equal_hashes_are_no_hit(monkeypatch):
  monkeypatch.setattr(hashing.Sums, "of_runs", lambda self, length: 0 * self._sums[length:])
  index = Index([Item("1", "a b c"), Item("2", "b c d"), Item("3", "a x c d e")], n=3)
  assert index.hits(["x", "b", "c", "d", "a", "b", "d"]) == [Hit(1, 4, "2")]


def test_a_process_reads_the_items_once(items):
  decontaminate = rule(items)
  decontaminate(document("x"))
  items({"question": "other words than those before"})
  assert isinstance(pickle.loads(pickle.dumps(decontaminate))(document(SHORT)), Dropped)


def test_tasks_are_items_by_their_source(monkeypatch):
  import seqio
  import tensorflow as tf
  texts = ["first words of the task", "Other wörds of the task", "too short"]
  source = seqio.FunctionDataSource(
      lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(
          {"text": texts, "number": list(range(len(texts)))}), splits=("train", "validation"))
  name = "contamination_test"
  seqio.TaskRegistry.add(name, source=source, preprocessors=[], output_features={})
  try:
    decontaminate = Decontaminate(tasks=[f"{name}:validation"])
    assert decontaminate(document("the other wörds of the task")).match == f"{name}:validation:2"
    with pytest.raises(UserError, match="no text in 'a' .*set Decontaminate.fields"):
      Decontaminate(tasks=[f"{name}:train"], fields=["a"])(document("x"))
    with pytest.raises(UserError, match="unknown split 'test'"):
      Decontaminate(tasks=[f"{name}:test"])(document("x"))
    with pytest.raises(UserError, match="unknown task 'contamination_tes': did you mean"):
      Decontaminate(tasks=["contamination_tes:train"])(document("x"))
  finally:
    seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize("parameters, message", [
    ({}, r"Decontaminate.items = \(\) names no evaluation, nor do tasks: set one"),
    ({"items": "x", "n": 0}, "Decontaminate.n = 0 must be a whole number"), ({"items": "x", "n": 2.5}, "n = 2.5"),
    ({"items": "x", "shortest": 0}, "shortest"), ({"items": "x", "most_items": 0}, "most_items"),
    ({"items": "x", "fields": "text"}, "fields"), ({"items": "x", "fields": ()}, "fields"),
    ({"tasks": ["stdlib_bytes"]}, "tasks"), ({"tasks": "stdlib_bytes:train"}, "tasks")])
def test_mistakes_are_named(parameters, message):
  with pytest.raises(UserError, match=message):
    Decontaminate(**parameters)


@pytest.mark.parametrize("record, message", [
    ({"q": LONG}, r"items.jsonl:1: no text in 'text' or 'question' or 'prompt' \(but 'q'\): set Decontaminate.fields"),
    ({"text": 3}, "no text"), ({}, "nothing"), ([LONG], "not a JSON object"),
    ({"text": "too short"}, "no item of 5 words or more among 1 in .*lower Decontaminate.shortest")])
def test_records_without_items_are_named(items, record, message):
  with pytest.raises(UserError, match=message):
    rule(items, record)(document("x"))


def test_missing_and_broken_files_are_named(tmp_path):
  with pytest.raises(UserError, match="Decontaminate.items = .*none.jsonl' matches no file"):
    Decontaminate(items=f"{tmp_path}/none.jsonl")(document("x"))
  (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:30])
  with pytest.raises(UserError, match="cannot read .*cut.jsonl.gz"):
    Decontaminate(items=f"{tmp_path}/cut.jsonl.gz", shortest=1)(document("x"))
