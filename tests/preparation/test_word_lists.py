"""Listed words, against a search at every place."""

import pickle

from hypothesis import given
from hypothesis import strategies as st
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.word_lists import ListedWords, WordList


def at_every_place(entry, text):
  """How often a word of letters stands between non-letters."""
  text = text.casefold()
  return sum(text.startswith(entry, place) and not text[place - 1:place].isalpha()
             and not text[place + len(entry):][:1].isalpha() for place in range(len(text)))


@given(st.text(alphabet="abAB 1_.-\n", max_size=40))
def test_words_are_found_at_every_place(text):
  expected = {entry: at_every_place(entry, text) for entry in ("a", "ab", "b")}
  assert ListedWords(["A", "ab", "b", "b"]).counts(text) == {entry: count for entry, count in expected.items() if count}


@pytest.mark.parametrize("entry, text, count", [
    ("ass", "class assess ass", 1), ("STRASSE", "die Straße", 1), ("a-b", "A-B xa-b a-bx", 1),
    ("c++", "C++ c+++ cc++", 2),
    ("two words", "Two\n words, two words; twowords", 2), ("坏话", "他说坏话了", 1), ("é", "caféé é", 1),
    ("नमस्ते", "नमस्ते नमस्तेजी", 1), ("x", "x1 1x _x_ xx", 3), ("a.c", "abc a.c", 1)])
def test_borders(entry, text, count):
  assert sum(ListedWords([entry]).counts(text).values()) == count


def test_counts_are_noted_or_the_reason(tmp_path):
  (tmp_path / "words").write_text("\ufeffbad\r\nworse\n \n", "utf-8")
  file, document = str(tmp_path / "words"), Document("a", "Bad, bad; worse.", fields={"url": "u"})
  assert WordList(file)(document) == Dropped("word_list", 3, "bad 2, worse 1")
  assert WordList(file, most=2)(document).value == 3
  kept = pickle.loads(pickle.dumps(WordList(file, most=3)))(document)
  assert kept.fields == {"url": "u", "word_list": {"bad": 2, "worse": 1}} and kept.text == document.text
  assert WordList(file)(Document("a", "")).fields == {"word_list": {}}
  assert WordList(file)(Document("a", "?" * 1_000_000)).fields == {"word_list": {}}


def test_what_is_no_list_is_refused(tmp_path):
  (tmp_path / "empty").write_text(" \n\n")
  (tmp_path / "latin").write_bytes(b"caf\xe9")
  for name, message in (("empty", "lists no words"), ("latin", "UTF-8"), ("none", "cannot be read")):
    with pytest.raises(UserError, match=message):
      WordList(str(tmp_path / name))(Document("a", "text"))
  for wrong in ({"file": ""}, {"file": "x", "most": -1}):
    with pytest.raises(UserError, match="WordList"):
      WordList(**wrong)
