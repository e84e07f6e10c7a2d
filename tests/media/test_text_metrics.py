import pytest

from gpt4x.media.text_metrics import accuracy, word_error_rate


def test_accuracy_is_of_whole_answers():
  assert accuracy(["two", "a red door", "x"], [" two\n", "a red", ""]) == {"accuracy": pytest.approx(1 / 3)}
  assert accuracy([], []) == {"accuracy": 0}


@pytest.mark.parametrize("target, prediction, errors", [
    ("a b c d", "a b c d", 0), ("a b c d", "a x c d", 1), ("a b c d", "a c d", 1), ("a b c d", "a b x c d", 1),
    ("a b c d", "", 4), ("a b c d", "e f g h i", 5)])
def test_word_error_rate_counts_words(target, prediction, errors):
  assert word_error_rate([target], [prediction]) == {"word_error_rate": errors / 4}


def test_word_error_rate_is_of_all_words_together():
  assert word_error_rate(["a", "a b c"], ["x", "a b c"]) == {"word_error_rate": 0.25}
