"""FineWeb's rules: each reason, its bound, and texts for which a share has nothing to divide by."""

import pickle

import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.fineweb import FineWeb

LINE = "A line that is longer than thirty characters, and has enough words, number {}."


def judged(*lines, **parameters):
  return FineWeb(**parameters)(Document("a", "\n".join(lines)))


@pytest.mark.parametrize("lines, reason, value", [
    (["no end"] * 9 + ["An end."], "line_ends", 0.1), ([""], "line_ends", 0), (["word"], "line_ends", 0),
    (["Short."] * 7 + [LINE, LINE, LINE], "short_lines", 0.7),
    ([LINE.format(1), LINE.format(2), LINE.format(1)], "duplicate_line_characters", 1 / 3),
    ([f"Averyveryverylongwordwithoutanyblankwithin{n}." for n in range(4)], "newlines_per_word", 3 / 4),
])
def test_reasons_and_values(lines, reason, value):
  assert judged(*lines) == Dropped(reason, pytest.approx(value))


def test_paragraphs_pass():
  assert isinstance(judged(*map(LINE.format, range(9))), Document)
  assert isinstance(judged("One."), Dropped) and isinstance(judged(LINE), Document)


def test_blank_lines_are_no_lines_but_newlines():
  lines = [line for n in range(6) for line in (LINE.format(n), "", " \t")]
  assert isinstance(judged(*lines, min_line_ends=1, max_short_lines=0, max_duplicate_line_characters=0), Document)
  assert judged(*lines, max_newlines_per_word=0.1) == Dropped("newlines_per_word", 17 / (6 * 14))


def test_only_newlines_end_lines():
  line = "One\u2028two\x85three\x0bfour and so on, for more than thirty characters."
  assert isinstance(judged(line, "Another line of more than thirty characters."), Document)


@pytest.mark.parametrize("text", ["", " ", "\n", "\n" * 1_000_000, "?" * 1_000_000, " \n" * 1000, "word " * 200_000])
def test_extremes(text):
  for parameters in ({}, {"min_line_ends": 0, "max_short_lines": 1, "max_newlines_per_word": 2}):
    assert isinstance(FineWeb(**parameters)(Document("a", text)), Document | Dropped)


def test_chinese_has_other_ends_and_shorter_lines():
  lines = ["委员会表示将再次检查这些道路。", "大多数道路是在卡车出现之前修建的。"]
  assert isinstance(judged(*lines), Document)
  assert judged(*lines, lines[0]).reason == "duplicate_line_characters"


def test_parameters():
  assert pickle.loads(pickle.dumps(FineWeb(short_line=3))) == FineWeb(short_line=3)
  for wrong in ({"min_line_ends": 2}, {"short_line": -1}, {"ends": "."}, {"max_newlines_per_word": "x"}):
    with pytest.raises(UserError, match=f"FineWeb.{next(iter(wrong))}"):
      FineWeb(**wrong)
