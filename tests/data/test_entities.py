"""Names in texts, against a search that tries every name at every place."""

import random
import re

import pytest

from gpt4x.data.entities import Matcher


def found(names, text, **options):
  return [text[start:stop] for start, stop in Matcher(names, **options).spans(text)]


@pytest.mark.parametrize("names, text, expected", [
    (["New York", "York"], "New York is not York.", ["New York", "York"]),
    (["New York", "New York City"], "New York City, New York", ["New York City", "New York"]),
    (["a b", "b c d"], "a b c d", ["a b"]),  # The first of those that overlap.
    (["a b c", "b"], "a b d", ["b"]),  # What begins alike and does not go on hides nothing.
    (["art"], "cart art arts art", ["art", "art"]),
    (["New York"], "New\n  York NewYork New-York", ["New\n  York"]),
    (["U.S.", "C++"], "The U.S. has C++, not C.", ["U.S.", "C++"]),
    (["Zu"], "Zu\u0308rich Zu", ["Zu"]),
    (["東京", "東京大学"], "私は東京大学と東京にいる", ["東京大学", "東京"]),
    (["ไทย", "ประเทศไทย"], "ในประเทศไทยคนไทย", ["ประเทศไทย", "ไทย"]),
    (["กร", "กรุง"], "กรุณา กร กรุงเทพ", ["กร", "กรุง"]),  # A vowel above or below is its letter's.
    (["カタ", "が"], "ｶﾀｶﾅ カタカナ か\u3099", ["カタ"]),
    (["नम", "नमः"], "नमः नमस्ते", ["नमः"]),
    (["မြန်မာ"], "မြန်မာ။", ["မြန်မာ"]),
    (["Paris"], "paris PARIS Paris", ["Paris"]),
    (["", " ", "x"], "x", ["x"]), ([], "x", []), (["x"], "", [])])
def test_names_are_found(names, text, expected):
  assert found(names, text) == expected


def test_cases_are_folded_and_places_are_those_of_the_text():
  assert found(["straße nach Rom"], "Die STRASSE NACH ROM.", fold_case=True) == ["STRASSE NACH ROM"]
  assert Matcher(["i̇x"], fold_case=True).spans("a İX b") == [(2, 4)]  # Folded, it has one character more.


def slowly(names, text):
  """The longest of all names at each place, from left to right."""
  spans, place = [], 0
  while place < len(text):
    ends = [place + len(name) for name in names if text.startswith(name, place)
            and not re.match(r"\w", text[place + len(name):]) and not (place and re.match(r"\w", text[place - 1]))]
    if ends:
      spans.append((place, max(ends)))
    place = max([*ends, place + 1])
  return spans


def test_what_is_found_is_what_a_slow_search_finds():
  rng = random.Random(0)
  for _ in range(300):
    words = lambda count: " ".join("".join(rng.choices("ab", k=rng.randint(1, 2))) for _ in range(count))
    names = {words(rng.randint(1, 3)) for _ in range(rng.randint(1, 6))}
    text = words(rng.randint(1, 20))
    assert Matcher(names).spans(text) == slowly(names, text), (names, text)
