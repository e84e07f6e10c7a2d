"""C4's rules in both readings: what goes of a page, and pages that go."""

import pickle
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules import c4
from gpt4x.preparation.rules.c4 import C4

LINES = [f"This is the sentence of number {n}." for n in range(5)]


def cleaned(*lines, **parameters):
  result = C4(**{"min_sentences": 0, **parameters})(Document("a", "\n".join(lines)))
  return result if isinstance(result, Dropped) else result.text.split("\n")


@pytest.mark.parametrize("line", [
    "A line with no end mark", "It goes on and on...", "Please switch on JavaScript in your browser.",
    "We ask you to read our Privacy Policy.", "This site uses cookies for many things.", "Only four words here.", "",
    "This one has a " + "w" * 1001 + " word.", "Other ends are none of these\N{HORIZONTAL ELLIPSIS}", "  ", "!", "."])
def test_lines_that_go(line):
  assert cleaned(LINES[0], line, LINES[1]) == LINES[:2]


@pytest.mark.parametrize("line, left", [
    ('He said "there is nothing to see!"', None), ("Is this a question, perhaps, then?", None),
    ("This has a " + "w" * 1000 + " word.", None), ("  Blanks at both ends go away.  ", "Blanks at both ends go away."),
    ("As it was written before.[1] [23]", "As it was written before."),
    ("History[edit] of this is[citation needed] long.[]", "History of this is long.")])
def test_lines_that_stay(line, left):
  assert cleaned(line) == [left or line]


def test_readings_differ_in_words_and_sentences():
  short = ["Three words here.", "Another three words.", "And three more.", "Then three again.", "The last three."]
  assert cleaned(*short, reading="tfds") == Dropped("no_lines") and cleaned(*short, reading="paper") == short
  page = Document("a", "\n".join(LINES[:4]))
  assert C4(reading="tfds")(page) is page and C4(reading="paper")(page) == Dropped("too_few_sentences", 4)
  assert C4(reading="paper", min_sentences=4)(page) is page
  assert C4(reading="tfds", min_sentences=5)(page) == Dropped("too_few_sentences", 4)
  assert cleaned(*short, min_words_per_line=3) == short


@pytest.mark.parametrize("line, sentences", [
    ("One is here. Two is here! Is three here? Yes.", 4), ("It costs 3.5 e.g. in shops of www.example.org today.", 1),
    ('He said "No." Then he went away again.', 2), ("What?! Nobody knows that here.", 2)])
def test_sentences_are_counted(line, sentences):
  assert isinstance(cleaned(line, min_sentences=sentences), list)
  assert cleaned(line, min_sentences=sentences + 1) == Dropped("too_few_sentences", sentences)


@pytest.mark.parametrize("line, reason", [
    ("Here Lorem Ipsum stands for a text.", "lorem_ipsum"), ("Some code { follows in this line.", "curly_bracket")])
def test_pages_that_go(line, reason):
  assert cleaned(*LINES, line) == Dropped(reason)
  # Where a line goes anyway, only the paper's reading drops the page for it.
  assert cleaned(*LINES, line[:-1], reading="tfds") == LINES
  assert cleaned(*LINES, line[:-1], reading="paper") == Dropped(reason)


PARTS = ["Lorem ipsum", "JavaScript", "{", "use cookies", "one two", "[1]", "[edit]", "w" * 1001, "Words"]
LINE = st.tuples(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(" ".join),
                 st.sampled_from([".", "?", '"', "...", "'", ".[2]"])).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(LINE, st.sampled_from(LINES)), max_size=4), st.integers(0, 4), st.integers(0, 5))
def test_pages_are_those_of_tensorflow_datasets(lines, words, sentences):
  """With one way to count sentences, which is a learned one there."""
  from tensorflow_datasets.text import c4_utils
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(c4_utils, "_get_sentences", lambda line: [*c4._SENTENCE_END.finditer(line), "the last"])
    found = list(c4_utils.clean_page(
        c4_utils.PageFeatures(text="\n".join(lines)), re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]"),
        lambda *_: None, words, sentences))
  result = cleaned(*lines, min_words_per_line=words, min_sentences=sentences)
  expected = [line.strip() for page in found if page.text for line in page.text.split("\n")]  # "[1] It is" has a blank.
  assert result == expected if expected else isinstance(result, Dropped)


def test_bad_words_stand_between_letters_of_no_word(tmp_path):
  (tmp_path / "bad").write_text("Darn\nholy cow\n\n")
  bad = {"bad_words": str(tmp_path / "bad")}
  assert cleaned(*LINES, "That is a DARN_good thing.", **bad) == Dropped("bad_word", "darn")
  assert cleaned("darn it, that is a page.", **bad) == Dropped("bad_word", "darn")  # At the very start too.
  assert cleaned(*LINES, "It was a holy  cow indeed.", **bad) == Dropped("bad_word", "holy cow")
  assert cleaned("She darns socks in a darning basket.", **bad) == ["She darns socks in a darning basket."]
  assert cleaned(*LINES, "darn", **bad) == LINES and cleaned(*LINES, "darn", reading="paper", **bad).value == "darn"
  with pytest.raises(UserError, match="none cannot be read as a list of words"):
    cleaned("word", bad_words=str(tmp_path / "none"))


def test_too_long_pages_go_and_none_are_left_empty():
  assert C4(max_characters=10)(Document("a", "x" * 11)) == Dropped("too_long", 11)
  assert C4()(Document("a", "x" * 190_001)).reason == "too_long"
  for text in ("", " ", "word", "\n\n"):
    assert C4()(Document("a", text)) == Dropped("too_few_sentences", 0) and cleaned(text) == Dropped("no_lines")


def test_fineweb_goes_without_terminal_punctuation():
  line = "A heading of five words"
  assert cleaned(line, *LINES, terminal_punctuation=False) == [line, *LINES]


def test_chinese_is_counted_by_characters_and_has_other_ends():
  lines = ["委员会表示将再次检查这些道路。", "大多数道路是在卡车出现之前修建的。"]
  assert cleaned(*lines, "三个字", min_sentences=3) == lines
  assert C4()(Document("a", "\n".join([*lines, "这里有 { 一个括号在。"]))) == Dropped("curly_bracket")


@given(st.lists(st.sampled_from([*LINES, "no end", "{ is a bracket here too.", "a... b... c... d... e...", ""])))
def test_running_twice_changes_nothing(lines):
  first = C4()(Document("a", "\n".join(lines)))
  assert isinstance(first, Dropped) or C4()(first) is first


@pytest.mark.parametrize("unit", ["?", "word ", ". ", ".\"", "[", "a. ", "\n", " ", "[1", "{"])
def test_a_megabyte_of_one_thing_is_read_in_one_pass(unit):
  text = unit * (1_000_000 // len(unit))
  assert isinstance(C4(max_characters=2_000_000)(Document("a", text)), Document | Dropped)


def test_parameters():
  assert pickle.loads(pickle.dumps(C4(reading="paper"))) == C4(reading="paper")
  for wrong in ({"reading": "t5"}, {"min_sentences": -1}, {"max_characters": 0}, {"bad_words": ""}):
    with pytest.raises(UserError, match=f"C4.{next(iter(wrong))}"):
      C4(**wrong)
