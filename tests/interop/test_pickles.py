"""Pickles as they are read here: the values of Python's own reader where they are plain, and nothing else, ever."""

import collections
import io
import itertools
import pickle
import random
import re

import pytest

from benchmarks.fuzzing import mutations
from gpt4x.interop import pickles
from gpt4x.interop.pickles import Malformed
from tests.interop.test_tensor_files import Evil

SHARED = ["a", "b"]
PLAIN = {"none": None, "truth": [True, False], "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -2**63, 2**100, 1.5, -0.0],
         "text": ["", "ünïcödé", "\ud800", "line\n'\"\\", "x" * 300],
         "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
         "shared": [SHARED, SHARED], "deep": {"a": [{"b": ([],)}]},
         "ordered": collections.OrderedDict(b=1, a=2), "counter": collections.Counter("abca")}


def read(content, skip_unknown=False, **known):
  return pickles.read(io.BytesIO(content), known, skip_unknown=skip_unknown)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_pickle(protocol):
  content = pickle.dumps(PLAIN, protocol)
  found = read(content)
  assert found == pickle.loads(content)
  assert found["shared"][0] is found["shared"][1] and list(found["ordered"]) == ["b", "a"]
  raw = pickle.dumps([b"bytes", bytearray(b"more")], 5)
  assert read(raw) == pickle.loads(raw)


def test_strings_and_dictionaries_of_python_2():
  assert read(b"\x80\x02]q\x00(U\x01aq\x01T\x02\x00\x00\x00\xc3\xa9q\x02e.") == ["a", "é"]
  assert read(b"\x80\x02ccollections\nOrderedDict\n](](U\x01bK\x01e](U\x01aK\x02ee\x85R.") == {"b": 1, "a": 2}


def test_a_pickle_ends_where_it_ends():
  file = io.BytesIO(pickle.dumps([1]) + pickle.dumps("two") + b"rest")
  assert (pickles.read(file, {}), pickles.read(file, {}), file.read()) == ([1], "two", b"rest")


def test_attributes_of_dictionaries_are_ignored():
  """Such as the `_metadata` of torch's state dicts."""
  state = collections.OrderedDict(a=1)
  state._metadata = {"": {"version": 1}}
  content = pickle.dumps(state, 2)
  assert content.endswith(b"b.")
  found = read(content)
  assert found == {"a": 1} and type(found) is dict


def test_what_is_unknown_is_left_out_or_an_error():
  content = pickle.dumps({"kept": 1, "pattern": re.compile("a"), "set": {1, 2}, "call": Evil(), ("not", "text"): 2,
                          3: 4})
  found = read(content, skip_unknown=True)
  assert found.pop("kept") == 1 and {type(value).__name__ for value in found.values()} == {"_Opaque"}
  assert list(found) == ["pattern", "set", "call"]
  for value, words in (({"a": {1}}, "names a set"), ({3: 4}, "a int for a key"), (Evil(), r"names builtins.print"),
                       (frozenset("a"), "names a set"), ({("a",): 1}, "a tuple for a key")):
    with pytest.raises(Malformed, match=words):
      read(pickle.dumps(value, 4))


DEEP = b")" + b"\x85" * 20_000  # A tuple in a tuple in a tuple, whose hash would overflow the stack.
DOUBLED = b")" + b"2\x86" * 60  # Of 2^60 members.


@pytest.mark.parametrize("content, words", [
    (b"}K\x01K\x02sN}Va\nK\x01s\x86b.", "a int for a key"), (b"K\x01}b.", "sets fields"), (b"]}b.", "sets fields"),
    (b"Va\n}Vb\nNsb.", "sets fields"), (b"ccollections\nOrderedDict\n}b.", "sets fields"),
    (b"cstorage\nKind\n}b.", "sets fields"), (b"cstorage\nKind\n)R.", "no function"),
    (b"cstorage\nKind\n)\x81.", "no function"),
    (b"ccollections\nOrderedDict\n]R.", "no function"), (b"K\x01)R.", "no function"),
    (b"ccollections\nOrderedDict\n)}Va\nNs\x92.", "no function"),
    (b"cos\nsystem\nVtrue\n\x85R.", "names os.system"), (b"(Vtrue\nios\nsystem\n.", "names os.system"),
    (b"Vos\nVsystem\n\x93.", "names os.system"), (b"K\x01K\x01\x93.", "no string"),
    (b"\x82\x01.", "operation EXT1"), (b"P1\n.", "operation PERSID"), (b"NQ.", "operation BINPERSID"),
    (b"\x97.", "NEXT_BUFFER"),
    (b"}" + DEEP + b"K\x01s.", "a tuple for a key"), (b"}" + DOUBLED + b"K\x01s.", "a tuple for a key"),
    (b"\x8f(" + DEEP + b"\x90.", "names a set"), (b"ccollections\nOrderedDict\n]](" + DEEP + b"Nea\x85R.", "for a key"),
    (b"K\x01N.a", None), (b"NNa.", "no list"), (b"NNNs.", "no dictionary"), (b"}(Va\nu.", "no dictionary"),
    (b"N(\x90.", "no set"), (b"ccollections\nOrderedDict\n](K\x01e\x85R.", "no pairs"),
    (b"\x8a\x20" + b"\x7f" * 32 + b".", "number of 255 bits"),
], ids=itertools.count())
def test_malformed_pickles(content, words):
  if words is None:
    assert read(content) is None  # What follows is left.
    return
  with pytest.raises(Malformed, match=words):
    read(content, **{"storage.Kind": None})


@pytest.mark.parametrize("content", [
    b"", b".", b"a.", b"h\x05.", b"e.", b"0.", b"1.", b"\x85.", b"R.", b"]", b"\x8b\xff\xff\xff\xff.",
    b"\x8b\xff\xff\xff\x7f.",
    b"\x8e" + b"\xff" * 8 + b".", b"\x8e" + b"\xff" * 7 + b"\x7f.", b"T\xff\xff\xff\xff.", b"X\xff\xff\xff\xff.",
    b"I" + b"9" * 5000 + b"\n.", b"\xff.", b"U\x01\xff."])
def test_damaged_pickles(content):
  """Sizes that are negative or beyond the end; values that are not there."""
  with pytest.raises(ValueError):
    read(content)


def test_containers_that_hold_themselves_or_go_deep():
  found = read(b"]2a.")
  assert found[0] is found
  found = read(b"]" * 100_001 + b"a" * 100_000 + b".")
  assert len(found) == 1
  assert len(read(DOUBLED + b".")) == 2


def test_operations_are_counted(monkeypatch):
  """A pickle may use a list again and again."""
  monkeypatch.setattr(pickles, "MAX_OPERATIONS", 100)
  assert read(b"]" * 99 + b".") == []
  pairs = b"]" + b"](Va\nK\x01ea" * 5 + b"q\x00"
  for content in (b"]" * 101 + b".", pairs + b"ccollections\nOrderedDict\nh\x00\x85R" * 12 + b"."):
    with pytest.raises(Malformed, match="more than 100 operations"):
      read(content)


def test_nothing_real_is_in_reach():
  """Whatever the operations, only plain values and stand-ins come out."""
  known = {"torch.FloatStorage": None, "torch._utils._rebuild_tensor_v2": lambda *arguments: arguments}
  rng, seen, good = random.Random(0), collections.Counter[type](), pickle.dumps(PLAIN, 2)
  for _ in range(1500):
    mutate = rng.choice((mutations.random_pickle, mutations.edit_pickle))
    try:
      found = [pickles.read(io.BytesIO(mutate(rng, good)), known, lambda pid: pid, skip_unknown=True)]
    except (Malformed, ValueError, TypeError, OverflowError):
      continue
    visited = set[int]()
    while found:
      value = found.pop()
      seen[type(value)] += 1
      if id(value) not in visited:
        visited.add(id(value))
        found += value if isinstance(value, (list, tuple)) else ()
        found += [*value, *value.values()] if isinstance(value, dict) else ()
  plain = {type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict}
  assert seen.keys() <= plain | {pickles.Name, type(pickles._OPAQUE)} and len(seen) > 8
