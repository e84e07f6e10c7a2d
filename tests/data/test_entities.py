"""Names in texts, against a search that tries every name at every place; and those that records annotate."""

import random
import re

import pytest

from gpt4x.data.entities import Annotated, Annotations, apart, joined, Matcher
from gpt4x.data.text_files import WrongField


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


# What records annotate.

TEXT = "Zoë saw Ada in Köln."


@pytest.mark.parametrize("offsets, entities, expected", [
    ("characters", [[0, 3], [15, 19]], ["Zoë", "Köln"]),
    ("bytes", [[0, 4], [16, 21]], ["Zoë", "Köln"]),
    ("characters", [{"start": 15, "end": 19, "label": "GPE"}, [8, 11, "PER"]], ["Ada", "Köln"]),
    ("characters", [[8, 11], [8, 19], [0, 3], [15, 19], [0, 3]], ["Zoë", "Ada in Köln"]),  # As nested ones are told.
    ("characters", [], []),
    ("characters", [[0, 20]], [TEXT]),
])
def test_entities_stand_where_a_record_says(offsets, entities, expected):
  found = Annotations("ents", offsets)({"text": TEXT, "ents": entities})
  assert found == TEXT and [found[start:stop] for start, stop in found.spans] == expected


@pytest.mark.parametrize("offsets, entities, words", [
    ("characters", None, "no list 'ents' of entities"), ("characters", "0-3", "no list 'ents' of entities"),
    ("characters", [[0, 21]], r"\[0, 21\], which is no \[start, stop\] of a text of 20 characters"),
    ("characters", [[-3, 3]], "-3, 3"), ("characters", [[3, 3]], "3, 3"), ("characters", [[0.0, 3]], "0.0, 3"),
    ("characters", [[True, 3]], "True, 3"), ("characters", [{"start": 0, "stop": 3}], "'stop': 3"),
    ("characters", ["Ada"], "'Ada'"), ("characters", [[3]], "3"),
    ("bytes", [[0, 3]], r"\[0, 3\], .* of 22 bytes"),  # Inside of a character.
])
def test_a_wrong_entity_is_told(offsets, entities, words):
  record = {"text": TEXT} if entities is None else {"text": TEXT, "ents": entities}
  with pytest.raises(WrongField, match=words):
    Annotations("ents", offsets)(record)


def test_a_part_has_the_entities_that_are_whole_in_it():
  text = Annotated.of(TEXT, [(0, 3), (8, 11), (15, 19)])
  for start in range(len(TEXT) + 1):
    for stop in range(start, len(TEXT) + 1):
      part = text[start:stop]
      assert part == TEXT[start:stop] and [part[first:last] for first, last in part.spans] == [
          TEXT[first:last] for first, last in text.spans if start <= first and last <= stop]


def test_spans_are_joined_without_overlaps():
  rng = random.Random(0)
  for _ in range(300):
    draw = lambda: apart((start, start + rng.randint(1, 4)) for start in rng.sample(range(20), rng.randint(0, 6)))
    spans, others = draw(), draw()
    free = [one for one in others if not {*range(*one)} & {i for span in spans for i in range(*span)}]
    assert joined(spans, others) == sorted([*spans, *free])
    assert all(stop <= start for (_, stop), (start, _) in zip(spans, spans[1:]))
