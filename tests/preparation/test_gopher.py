"""Gopher's rules, against shares that are counted character by character."""

from collections import Counter
import dataclasses
import pickle

from hypothesis import given
from hypothesis import strategies as st
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition

PROSE = ("The committee has said that it will have to look at the roads again, and with good reason: most of them "
         "were built before anyone had thought of lorries. Nobody expects an answer to be found this year, but the "
         "engineers have begun to measure, and what they bring home is worse than the papers claimed. ")


def quality(text, **parameters):
  return GopherQuality(**{"min_words": 0, "min_stop_words": 0, **parameters})(Document("a", text))


def repetition(text, **parameters):
  off = dict.fromkeys(("max_lines", "max_paragraphs", "max_line_characters", "max_paragraph_characters"), 1.0)
  return GopherRepetition(**{**off, "top_grams": (), "duplicate_grams": (), **parameters})(Document("a", text))


def test_prose_passes_both():
  document = Document("a", PROSE)
  assert GopherQuality()(document) is document and GopherRepetition()(document) is document


@pytest.mark.parametrize("text, parameters, reason, value", [
    ("word " * 49, {"min_words": 50}, "too_few_words", 49),
    ("word " * 6, {"max_words": 5}, "too_many_words", 6),
    ("a be it", {}, "mean_word_length", 5 / 3),
    ("incomprehensibilities notwithstanding", {}, "mean_word_length", (21 + 15) / 2),
    ("word #tag #two three", {}, "hashes", 0.5),
    ("well... then… maybe", {}, "ellipses", 2 / 3),
    ("• some\n\n  • more\n- three\n-four", {}, "bullet_lines", 1.0),
    ("some more...\nword\nanother…  \nwords", {"max_symbols_per_word": 1}, "ellipsis_lines", 0.5),
    ("word 1234 5678 other", {}, "words_with_letter", 0.5),
    ("word ½½½½ ¹²³⁴ other", {}, "words_with_letter", 0.5),
    ("The THE the with? words", {"min_stop_words": 2}, "stop_words", 1),  # Different ones are counted.
])
def test_quality_drops_by_reason_and_value(text, parameters, reason, value):
  assert quality(text, **parameters) == Dropped(reason, pytest.approx(value))


@pytest.mark.parametrize("text", [
    "word " * 50, "• some\nother words here and there\n",
    "some words here more...\n" * 3 + "word word word words words\n" * 10,
    "word 12 other third fourth", "#one " + "word " * 9])
def test_what_is_at_a_bound_is_kept(text):
  assert isinstance(quality(text), Document)


def test_stop_words_may_be_those_of_another_language():
  german = Document("a", "Der Hund und die Katze sind mit dem Nachbarn gegangen.")
  assert GopherQuality(min_words=5)(german) == Dropped("stop_words", 0)
  assert GopherQuality(min_words=5, stop_words=("der", "und", "die", "mit"))(german) is german


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t\n "])
def test_a_document_without_words(text):
  assert GopherQuality()(Document("a", text)) == Dropped("too_few_words", 0)
  assert isinstance(quality(text), Document) and isinstance(GopherRepetition()(Document("a", text)), Document)


CHINESE = ("委员会表示，他们将再次检查这些道路，理由很充分：大多数道路是在卡车出现之前修建的。"
           "没有人期待今年会有答案。工程师们已经开始测量了。")
THAI = "คณะกรรมการกล่าวว่าจะต้องตรวจสอบถนนอีกครั้งเพราะถนนส่วนใหญ่สร้างขึ้นก่อนที่จะมีรถบรรทุกวิศวกรเริ่มวัดแล้ว"


@pytest.mark.parametrize("text", [CHINESE, THAI])
@pytest.mark.parametrize("fields", [{}, {"language": "zh"}])
def test_scripts_without_blanks_are_not_judged_by_english_words(text, fields):
  document = Document("a", text, fields=fields)
  assert GopherQuality()(document) is document
  assert isinstance(GopherQuality()(Document("a", text[:30])), Dropped)  # Characters are counted.
  again = Document("a", "\n".join(text[:50] + text[:50 - n] for n in range(5)))  # n-grams repeat, lines do not.
  assert GopherRepetition()(again) is again
  assert GopherRepetition()(Document("a", f"{text}\n" * 3)).reason == "duplicate_lines"


@pytest.mark.parametrize("text, parameters, reason, value", [
    ("a\nb\na\na", {"max_lines": 0.3}, "duplicate_lines", 0.5),
    ("a\nb\n \n a\na", {"max_lines": 0.3}, "duplicate_lines", 0.5),  # Blank lines are none.
    ("long line\nb\nlong line", {"max_line_characters": 0.2}, "duplicate_line_characters", 9 / 19),
    ("a\nb\n\nc\n\na\nb", {"max_paragraphs": 0.3}, "duplicate_paragraphs", 1 / 3),
    ("aaa\n \t\xa0\u3000\nb\n\n\naaa", {"max_paragraph_characters": 0.2}, "duplicate_paragraph_characters", 3 / 7),
    ("x y q x y r x y s", {"top_grams": ((2, 0.2),)}, "top_2_gram", 6 / 9),
    ("ha ha ha ha", {"top_grams": ((2, 0.2),)}, "top_2_gram", 1.0),  # Characters of overlaps count once.
    ("a b c d e f a b c d e g", {"duplicate_grams": ((5, 0.15),)}, "duplicate_5_grams", 5 / 12),
    ("a b c d e f a b c d e f", {"duplicate_grams": ((5, 0.15),)}, "duplicate_5_grams", 6 / 12),
])
def test_repetition_drops_by_reason_and_value(text, parameters, reason, value):
  assert repetition(text, **parameters) == Dropped(reason, pytest.approx(value))


@pytest.mark.parametrize("text", ["one", "one two three", "a b c d e f g h i j k l", "a\n\n\n", "word\n"])
def test_short_texts_do_not_repeat_themselves(text):
  assert isinstance(GopherRepetition()(Document("a", text)), Document)


def slow_share(words, n, places):
  within = {position for place in places for position in range(place, place + n)}
  return sum(len(words[position]) for position in within) / sum(map(len, words))


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=40), st.integers(1, 6))
def test_shares_are_those_of_a_slow_count(words, n):
  grams = [tuple(words[place:place + n]) for place in range(len(words) - n + 1)]
  text = " ".join(words)
  again = slow_share(words, n, [place for place, gram in enumerate(grams) if gram in grams[:place]])
  result = repetition(text, duplicate_grams=((n, 0),))
  assert result == Dropped(f"duplicate_{n}_grams", pytest.approx(again)) if again else isinstance(result, Document)
  counts = Counter(gram for gram in grams if grams.count(gram) > 1)
  result = repetition(text, top_grams=((n, 0),))
  if not counts:
    assert isinstance(result, Document)
    return
  most = max((count, sum(map(len, gram))) for gram, count in counts.items())
  tops = [gram for gram, count in counts.items() if (count, sum(map(len, gram))) == most]
  places = [[place for place, gram in enumerate(grams) if gram == top] for top in tops]
  assert result.value in [pytest.approx(slow_share(words, n, of_one)) for of_one in places]


@pytest.mark.parametrize("text", ["?" * 1_000_000, "word " * 200_000, "\n" * 1_000_000, " " * 1_000_000,
                                  "\n\t" * 500_000])
def test_a_megabyte_of_one_thing_is_read_in_one_pass(text):
  for rule in (GopherQuality(), GopherRepetition()):
    assert isinstance(rule(Document("a", text)), Document | Dropped)


def test_rules_can_be_sent_to_another_process():
  for rule in (GopherQuality(min_words=3), GopherRepetition(max_lines=0.5)):
    assert pickle.loads(pickle.dumps(rule)) == rule and dataclasses.is_dataclass(rule)


@pytest.mark.parametrize("rule, parameters, named", [
    (GopherQuality, {"min_words": -1}, "GopherQuality.min_words = -1"),
    (GopherQuality, {"max_words": 10}, "at least min_words"), (GopherQuality, {"max_bullet_lines": 2}, "share"),
    (GopherQuality, {"stop_words": "the"}, "list of words"), (GopherQuality, {"stop_words": ("The", "be")}, "small"),
    (GopherQuality, {"min_stop_words": 9}, "number of stop words"), (GopherQuality, {"max_words": "many"}, "max_words"),
    (GopherRepetition, {"max_lines": -0.1}, "share"), (GopherRepetition, {"top_grams": ((0, 0.1),)}, "pairs"),
    (GopherRepetition, {"top_grams": (2, 0.1)}, "pairs"), (GopherRepetition, {"duplicate_grams": ((5, 15),)}, "share")])
def test_wrong_parameters_are_refused(rule, parameters, named):
  with pytest.raises(UserError, match=named):
    rule(**parameters)
