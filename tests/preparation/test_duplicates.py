"""Duplicates: against brute force over all pairs of documents."""

import itertools
import random
import re

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation import shard_files
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing, matching, substrings
from gpt4x.preparation.duplicates.exact import ExactDuplicates
from gpt4x.preparation.duplicates.join import Match
from gpt4x.preparation.duplicates.lines import RepeatedLines
from gpt4x.preparation.duplicates.near import NearDuplicates
from gpt4x.preparation.duplicates.substrings import RepeatedSubstrings
from gpt4x.preparation.rules import words
from tests.preparation.preparing import prepared, run, write

WORDS = ["".join(letters) for letters in itertools.product("abcdefgh", repeat=3)]  # No digits, which are all alike.


def test_of_equal_documents_the_first_stays(tmp_path):
  found = prepared(tmp_path, [["x", "one two", "y"], ["one two", "One two.", ""], ["z", "one two", ""]],
                   ExactDuplicates())
  assert list(found.kept) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.jsonl:2", "b.jsonl:3", "c.jsonl:1"]
  assert {name: one["match"] for name, one in found.dropped.items()} == {
      "b.jsonl:1": "a.jsonl:2", "c.jsonl:2": "a.jsonl:2", "c.jsonl:3": "b.jsonl:3"}


def test_case_and_punctuation_may_count_for_nothing(tmp_path):
  found = prepared(tmp_path, [["Café 12, open!", "cafe 34 (open)", "cafe 3 open"]], ExactDuplicates(normalize=True))
  assert list(found.dropped) == ["a.jsonl:2"]


def test_lines_that_came_up_before_are_taken_out(tmp_path):
  found = prepared(tmp_path, [["Home, About\nA text.\n\nIt goes on.", "home about\nAnother\nAnother!"],
                              ["HOME ABOUT 1\n", "Fresh\nhome about 2\n\n"]], RepeatedLines())
  assert found.kept == {"a.jsonl:1": "Home, About\nA text.\n\nIt goes on.", "a.jsonl:2": "Another",
                        "b.jsonl:1": "HOME ABOUT 1\n", "b.jsonl:2": "Fresh\n\n"}
  assert found.counts.cut == {"RepeatedLines": len("home about\n\nAnother!") + len("home about 2\n")}


def test_a_document_of_repeated_lines_alone_is_dropped(tmp_path):
  found = prepared(tmp_path, [["one\ntwo", "Two\n\nONE"]], RepeatedLines(alike="c4"))
  assert found.dropped["a.jsonl:2"] == {"id": "a.jsonl:2", "step": "RepeatedLines", "reason": "repeated_lines",
                                        "value": None, "match": "a.jsonl:1"}


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_end_lines(tmp_path, separator):
  text = separator.join(["one", "two", "one"])
  assert prepared(tmp_path, [[text, f"{text}\nnew"]], RepeatedLines()).kept == {"a.jsonl:1": text, "a.jsonl:2": "new"}


def test_short_lines_may_stay(tmp_path):
  found = prepared(tmp_path, [["--\na longer line", "--\na longer line\nnew"]], RepeatedLines("c4", least_chars=5))
  assert found.kept["a.jsonl:2"] == "--\nnew"


def repeated_by_brute_force(texts: list[str], length: int) -> list[str]:
  """What is left of each, word by word: a run is repeated if it stood anywhere before."""
  seen, left = set[tuple[str, ...]](), list[str]()
  for text in texts:
    words, repeated = text.split(), set[int]()
    first = dict[tuple[str, ...], int]()
    for start in range(len(words) - length + 1):
      one = tuple(words[start:start + length])
      if one in seen:
        repeated |= set(range(start, start + length))
      elif one in first:
        repeated |= set(range(max(start, first[one] + length), start + length))
      else:
        first[one] = start
    seen |= set(first)
    left.append(" ".join(word for place, word in enumerate(words) if place not in repeated))
  return left


@settings(max_examples=30, deadline=None)
@given(strategies.lists(strategies.lists(strategies.sampled_from("ab"), max_size=30), min_size=1, max_size=5))
def test_repeated_runs_are_those_of_brute_force(documents):
  join, texts = RepeatedSubstrings(words=3), [" ".join(words) for words in documents]
  first, left = dict[int, tuple[int, int]](), list[str]()
  for number, text in enumerate(texts):
    keys, places = join.keys(Document(str(number), text))
    matches = [Match(place, str(first[key][0]), first[key][0] == number, first[key][1], 1.0)
               for key, place in zip(keys.tolist(), places.tolist()) if first.setdefault(key, (number, place))
               != (number, place)]
    result = join.apply(Document(str(number), text), matches) if matches else Document("", text)
    left.append("" if isinstance(result, Dropped) else " ".join(result.text.split()))
  assert left == repeated_by_brute_force(texts, 3)


def test_repeated_runs_are_cut_between_words(tmp_path):
  run = " ".join(WORDS[:6])
  found = prepared(tmp_path, [[f"first {run} end", f"Héllo\tthere {run}\n\nAfter İ it", run], [f"{run} \U0001f600"]],
                   RepeatedSubstrings(words=5))
  assert found.kept == {"a.jsonl:1": f"first {run} end", "a.jsonl:2": "Héllo\tthere After İ it",
                        "b.jsonl:1": "\U0001f600"}
  assert found.dropped["a.jsonl:3"]["match"] == "a.jsonl:1"


def test_no_run_goes_over_the_end_of_a_document(tmp_path):
  found = prepared(tmp_path, [["a b c", "d e f", "b c d e"]], RepeatedSubstrings(words=4))
  assert len(found.kept) == 3


def jaccard(one: str, other: str, ngram: int) -> float:
  sets = [{tuple(words[start:start + ngram]) for start in range(max(1, len(words) - ngram + 1))}
          for words in (one.split(), other.split())]
  return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_what_is_dropped_is_alike_what_is_kept(tmp_path):
  """Every document that is dropped has its similarity, and names one that is kept; all equal ones are found."""
  draw, files = random.Random(1), list[list[str]]()
  seeds = [draw.choices(WORDS, k=draw.randint(1, 60)) for _ in range(12)]
  for _ in range(3):
    files.append([])
    for _ in range(30):
      words = list(draw.choice(seeds))
      for _ in range(draw.choice((0, 1, 2, 8))):
        words[draw.randrange(len(words))] = draw.choice(WORDS)
      files[-1].append(" ".join(words))
  found = prepared(tmp_path, files, NearDuplicates(threshold=0.6, ngram=2))
  texts = {f"{chr(97 + number)}.jsonl:{row}": text for number, file in enumerate(files)
           for row, text in enumerate(file, 1)}
  assert 10 < len(found.dropped) < 90 and len(found.kept) + len(found.dropped) == 90
  order = list(texts)
  for name, one in found.dropped.items():
    assert one["match"] in found.kept and order.index(one["match"]) < order.index(name)
    assert one["value"] == pytest.approx(jaccard(texts[name], texts[one["match"]], 2), abs=1e-4) and one["value"] >= 0.6
  assert len(set(found.kept.values())) == len(found.kept)


def test_the_middle_of_a_chain_alone_is_dropped(tmp_path):
  """A is like B, and B like C, but A is not like C."""
  words = WORDS[:60]
  chain = [" ".join(words[start:start + 50]) for start in (0, 5, 10)]
  alike = [jaccard(one, other, 2) for one, other in zip([chain[0], *chain], [*chain[1:], chain[2]])]
  assert alike[0] > 0.8 and jaccard(chain[0], chain[2], 2) < 0.7
  found = prepared(tmp_path, [chain], NearDuplicates(0.75, ngram=2, bands=40, rows=4))
  assert list(found.dropped) == ["a.jsonl:2"]


def test_of_a_long_chain_every_second_stays_and_what_is_dropped_names_one_that_is_there(tmp_path):
  """A ~ B ~ C ~ D ~ E, over files and in an order of names that is not the order of keys."""
  words = WORDS[:70]
  a, b, c, d, e = (" ".join(words[start:start + 50]) for start in (0, 5, 10, 15, 20))
  found = prepared(tmp_path, [[a], [b, "other words " * 5, c], [d, e]], NearDuplicates(0.75, ngram=2, bands=40, rows=4))
  assert {name: one["match"] for name, one in found.dropped.items()} == {"b.jsonl:1": "a.jsonl:1",
                                                                         "c.jsonl:1": "b.jsonl:3"}


def test_documents_of_the_same_boilerplate_are_compared_with_few(tmp_path):
  """All have one key in common: each is compared with the first, and with the next."""
  entries = np.zeros(2_000, shard_files.ENTRY)
  entries["row"] = np.arange(2_000)
  for name in ("a", "b"):
    shard_files.write_entries(tmp_path / name, entries)
  matching.write_matches([tmp_path / "a", tmp_path / "b"], (0, shard_files.GROUPS), tmp_path / "pairs", pairs=True)
  pairs = shard_files.Groups(tmp_path / "pairs").read(0, 2, shard_files.MATCH)
  assert 4_000 < len(pairs) <= 33 * 4_000
  met = {(0, 0)} | {(shard, row) for shard, row in pairs[["shard", "other"]].tolist()}
  assert len(met) == 4_000


@pytest.mark.parametrize("letters", ["的一是了我不人在他有这个上们来到时大地为子中你说生", "กขคงจชซญดตถทธนบปผฝพฟภมยรลว",
                                     "あいうえおかきくけこさしすせそたちつてと"])
def test_scripts_without_blanks_are_compared_by_characters(tmp_path, letters):
  draw = random.Random(0)
  one, other = ("".join(draw.choices(letters, k=400)) for _ in range(2))
  found = prepared(tmp_path, [[one, other, one[:200] + other[:3] + one[203:]]], NearDuplicates())
  assert list(found.dropped) == ["a.jsonl:3"] and found.dropped["a.jsonl:3"]["value"] > 0.9
  pattern = write(tmp_path / "input", [one, other[:20] + one[100:300] + other[-20:]])
  assert run(pattern, tmp_path / "cut", RepeatedSubstrings()).kept == {
      "a.jsonl:1": one, "a.jsonl:2": other[:20] + other[-20:]}


@given(strategies.text(alphabet="ab .,\n北京。ที่รัé\u0301\u2028", max_size=30))
def test_words_of_runs_are_those_of_the_rules(text):
  """So that no cut parts a character from its marks."""
  assert substrings._word(text).findall(text) == words.split(text).words


def test_no_document_is_like_itself(tmp_path):
  """Though it has the same key at several places; another document with that key is."""
  entries = np.zeros(3, shard_files.ENTRY)
  entries["row"], entries["place"] = [0, 0, 1], [0, 1, 0]
  shard_files.write_entries(tmp_path / "keys", entries)
  matching.write_matches([tmp_path / "keys"], (0, shard_files.GROUPS), tmp_path / "pairs", pairs=True)
  pairs = shard_files.Groups(tmp_path / "pairs").read(0, 1, shard_files.MATCH)
  assert pairs[["row", "shard", "other"]].tolist() == [(0, 0, 1)]
  again = ["la la la la la la la la", "one\none"]
  assert list(prepared(tmp_path, [again], NearDuplicates(ngram=1), ExactDuplicates()).kept.values()) == again


def test_boilerplate_in_every_document_is_taken_out_of_all_but_the_first(tmp_path):
  files = [[f"Accept all cookies\nText {chr(97 + file)} {WORDS[row]}\nAll rights reserved" for row in range(150)]
           for file in range(2)]
  found = prepared(tmp_path, files, RepeatedLines())
  assert len(found.kept) == 300 and found.kept.pop("a.jsonl:1") == files[0][0]
  assert all(re.fullmatch(r"Text [ab] [a-h]{3}\n?", text) for text in found.kept.values())


def test_many_copies_of_one_text_are_one(tmp_path):
  """More than are compared pair by pair."""
  text = " ".join(WORDS[:30])
  found = prepared(tmp_path, [[text] * 200, [text] * 200], NearDuplicates())
  assert len(found.kept) == 1 and {one["match"] for one in found.dropped.values()} == {"a.jsonl:1"}


def test_documents_with_nothing_in_them_are_not_alike(tmp_path):
  found = prepared(tmp_path, [["", " ", "...", "a", "A!", "b"]], NearDuplicates(), ExactDuplicates(normalize=False),
                   RepeatedLines(), RepeatedSubstrings())
  assert [name for name in found.dropped if found.dropped[name]["step"] == "NearDuplicates"] == ["a.jsonl:5"]


def test_pairs_meet_as_often_as_the_formula_says():
  """1 - (1 - J^rows)^bands, within three standard errors over 400 pairs; and single minima as often as J."""
  join, draw, trials = NearDuplicates(bands=14, rows=8), np.random.default_rng(0), 400
  for similarity in (0.5, 0.7, 0.8, 0.9):
    both, meet, equal = round(200 * similarity), 0, list[float]()
    own = (200 - both) // 2
    exact = both / (both + 2 * own)
    for _ in range(trials):
      drawn = draw.integers(0, 1 << 64, both + 2 * own, np.uint64)
      one, other = drawn[:both + own], np.concatenate([drawn[:both], drawn[both + own:]])
      meet += bool(set(join.keys_of(one)[0].tolist()) & set(join.keys_of(other)[0].tolist()))
      equal.append(float(np.mean(join.signature(one) == join.signature(other))))
    expected = 1 - (1 - exact**8) ** 14
    assert abs(meet / trials - expected) <= 3 * (expected * (1 - expected) / trials) ** 0.5
    assert abs(np.mean(equal) - exact) <= 3 * (exact * (1 - exact) / (112 * trials)) ** 0.5


def test_runs_have_the_hash_of_their_words_wherever_they_stand():
  words = hashing.of_words(["a", "b", "c", "d", "a", "b", "c"])
  found = hashing.runs(words, 3)
  assert found[0] == found[4] and len(set(found.tolist())) == 4
  assert hashing.runs(words[:2], 3) == hashing.runs(words[:2], 2) and len(hashing.runs(words[:0], 3)) == 0


def test_more_keys_than_a_part_holds(tmp_path, monkeypatch):
  """The same documents stay however the keys are parted."""
  draw = random.Random(0)
  files = [[" ".join(draw.choices("abc", k=4)) for _ in range(50)] for _ in range(2)]
  steps = [ExactDuplicates(), NearDuplicates(0.5, 2)]
  whole = run(write(tmp_path / "input", *files), tmp_path / "whole", *steps)
  monkeypatch.setattr(matching, "PART_ENTRIES", 8)
  assert run(str(tmp_path / "input" / "*"), tmp_path / "parts", *steps) == whole


@pytest.mark.parametrize("make, message", [
    (lambda: NearDuplicates(threshold=0), "NearDuplicates.threshold = 0 must be above 0 and at most 1"),
    (lambda: NearDuplicates(bands=0), "NearDuplicates.bands = 0 must be at least 1"),
    (lambda: RepeatedLines(alike="c5"), "RepeatedLines.alike = 'c5' is unknown: use 'ccnet' or 'c4'"),
    (lambda: RepeatedSubstrings(words=1), "RepeatedSubstrings.words = 1 must be at least 2")])
def test_a_wrong_parameter_is_named(make, message):
  with pytest.raises(UserError, match=message):
    make()
