"""Words of texts with blanks and without, against a reading character by character."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from gpt4x.preparation.rules.words import split, words_of


@pytest.mark.parametrize("text, words, unspaced", [
    ("", [], False), (" \n\t ", [], False), ("one", ["one"], False),
    ("Two words,\nand 3.", ["Two", "words,", "and", "3."], False),
    ("naïve café", ["naïve", "café"], False),
    ("我是学生。", ["我", "是", "学", "生。"], True),
    ("これはペン", ["こ", "れ", "は", "ペ", "ン"], True),
    ("人々", ["人", "々"], True), ("ｶﾅ", ["ｶ", "ﾅ"], True), ("བོད་སྐད།", ["བོ", "ད་", "སྐ", "ད།"], True),
    ("ที่นี่", ["ที่", "นี่"], True),  # The marks belong to their consonant.
    ("한국어 문장 입니다", ["한국어", "문장", "입니다"], False),  # Korean has blanks.
    ("Tokyo (東京) is the capital of Japan", ["Tokyo", "(", "東", "京)", "is", "the", "capital", "of", "Japan"], False),
])
def test_words(text, words, unspaced):
  assert split(text) == (words, unspaced)


@given(st.text(alphabet="ab ,.\n東京รี"))
def test_no_character_is_lost_nor_made(text):
  assert "".join(split(text).words) == "".join(text.split())


def test_a_text_is_split_once_and_another_anew():
  assert words_of("a b") is words_of("a b")
  assert words_of("c").words == ["c"] and words_of("a b").words == ["a", "b"]
