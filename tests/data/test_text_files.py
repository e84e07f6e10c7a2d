"""What documents a file has: by its content, packed or not, and line by line where it is damaged."""

import bz2
import gzip
import json
import lzma
import random

import pyarrow
import pytest

from gpt4x.data.text_files import read_documents, shown
from gpt4x.errors import UserError

PACKERS = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
           "zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}
LINES = b'{"text": "one"}\n\n{"id": 7, "text": "t\\u00fcw\\no"}\r\n{"text": " "}\n{"text": "three"}'
TEXTS = ["one", "tüw\no", "three"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def read(name, content, **kwargs):
  with open(name, "wb") as file:
    file.write(content)
  return list(read_documents(name, **kwargs))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.txt", "a", "a.jsonl.gz",
                                  "a.jsonl.part1"])
def test_json_lines_whatever_their_name_and_packing(name, packer):
  documents = read(name, PACKERS[packer](LINES))
  assert documents == [(f"{name}:{i}", text) for i, text in zip((1, 3, 5), TEXTS)]
  assert read(name, PACKERS[packer](b"\xef\xbb\xbf" + LINES)) == documents  # A byte-order mark.


@pytest.mark.parametrize("packer", PACKERS)
def test_parts_packed_one_after_another_are_one_file(packer):
  assert read("a.txt", PACKERS[packer](b"one\n") + PACKERS[packer](b"two")) == [("a.txt", "one\ntwo")]


@pytest.mark.parametrize("content, texts", [
    (json.dumps([{"text": text} for text in TEXTS]), TEXTS),
    (json.dumps([{"text": text} for text in TEXTS], indent=2), TEXTS),
    ("\ufeff\n" + json.dumps({"title": {"a": {}}, "text": "one"}, indent=4), ["one"]),
    ("\n".join(json.dumps({"text": text}, indent=2) for text in TEXTS), TEXTS),  # As jq writes them.
    (json.dumps({"text": "long " * 40_000, "id": 1}, indent=2), ["long " * 40_000]),
    (json.dumps([{"text": "long " * 20_000}] * 3, indent=2), ["long " * 20_000] * 3),
    ("", []), (" \n", []), ("[]", []),
])
def test_whole_json(content, texts):
  assert [text for _, text in read("a.json", content.encode())] == texts


@pytest.mark.parametrize("name, content", [
    ("a.txt", "plain\ntext\n"), ("a.py", "{}\n{'text': 1}"), ("a.log", '{"level": "info"}\n{"level": "debug"}\n'),
    ("a.md", 'Lines look like this:\n{"text": "one"}\n'), ("a.c", "{\n  int text;\n}\n"),
    ("a.ipynb", '{\n "cells": []\n}'),
    ("a.txt.gz", "not packed any more"), ("a.txt", "[1, 2]"), ("a.txt", "BZh is how bzip2 begins"),
    ("a.txt", "Ü\0\ufeff"),
])
def test_plain_text(name, content):
  assert read(name, content.encode()) == [(name, content)]
  assert read(name, b"\xef\xbb\xbf" + content.encode()) == [(name, content)]


DEEP = "[" * 100_000
BAD = [  # A name, a content, what is said of it, and the texts beside it.
    ("a.jsonl", '{"text": "x"}\n{"text": 5}\n{"text": "y"}', 'a.jsonl:2: .*"text" is of type int', ["x", "y"]),
    ("a.jsonl", '{"text": "x"}\n{"body": "b", "id": 1}', r"a.jsonl:2: .*it has 'body', 'id'", ["x"]),
    ("a.jsonl", '{"text": "x"}\n[1]\ntext', "a.jsonl:2: .*of type list", ["x"]),
    ("a.jsonl", '{"text": "x"\n{"text": "y"}', "a.jsonl:1: .*Expecting ',' delimiter at column", ["y"]),
    ("a.jsonl", '{"text": "x"}\n{"text": "y"', "a.jsonl:2: .*Expecting ',' delimiter at column 13", ["x"]),
    ("a.txt", '{"text": "x"}\n\\', "a.txt:2: ", ["x"]),
    ("a.jsonl", '{"text": "x"}\n{"text": "\\ud83d"}', "a.jsonl:2: .*half a surrogate pair", ["x"]),
    ("a.jsonl", '{"text": "x"}\n{"a": %s' % DEEP, "a.jsonl:2: .*too many levels", ["x"]),
    ("a.json", DEEP, "a.json: .*too many levels", []),
    ("a.jsonl", '{"text": "x"}\n{"text": "y", "id": %s}' % ("1" * 5000), "a.jsonl:2: ", ["x"]),
    ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', "a.jsonl:2: .*not UTF-8 at byte 24", ["x"]),
    ("a.json", '[{"text": "x"},\n {"body": "y"},\n {"text": "z"}]', r"a.json\[1\]: .*it has 'body'", ["x", "z"]),
    ("a.json", '[{"text": "x"},\n {"text": "y"}', "a.json:2: neither JSON lines nor whole JSON", []),
    ("a.json", '{\n "data": [{"text": "x"}]\n}', r"a.json\[0\]: .*it has 'data'", []),
    ("a.json", "no JSON\n", "a.json:1: ", []),
    ("a.json", '"text"', "a.json:1: .*of type str", []),
    ("a.txt", b"caf\xe9\n", "a.txt is not UTF-8 at byte 3: convert it", []),
    ("a.txt", "wide".encode("utf-16"), "a.txt is UTF-16: ", []),
    ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "a.jsonl is UTF-16: ", []),
    ("a.zip", b"PK\x03\x04....", "a.zip is a zip archive", []),
    ("a.txt", b"name".ljust(257, b"\0") + b"ustar\0" + b"text" * 99, "a.txt is a tar archive", []),
]


@pytest.mark.parametrize("name, content, message, texts", BAD)
@pytest.mark.parametrize("packer", ["", "gz"])
def test_bad_records_have_a_place_and_leave_the_others(name, content, message, texts, packer):
  content = PACKERS[packer](content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=f"^{message}.*or set LocalText.on_bad_record = 'skip'$") as error:
    read(name, content)
  assert "\n" not in str(error.value) and len(str(error.value)) < 300
  bad = []
  assert [text for _, text in read(name, content, bad=bad.append)] == texts
  assert bad


@pytest.mark.parametrize("packer", [name for name in PACKERS if name])
def test_what_is_not_whole_cannot_be_read(packer):
  data = PACKERS[packer](bytes(random.Random(0).choices(b"ab \n", k=5000)))
  flipped = [data[:100] + bytes(8) + data[108:], data * 2 + data[:50] + bytes(50) + data[100:]]
  if packer == "zst":  # pyarrow writes no checksums.
    flipped = []
  for broken in (data[:-8], data[:len(data) // 2], data + b"behind", *flipped):
    with pytest.raises(UserError, match="^cannot read a.txt [(].*[)]: mend it, or set"):
      read("a.txt", broken)


def test_a_file_that_is_not_there_or_not_to_be_read(monkeypatch):
  with pytest.raises(UserError, match="cannot read a.txt .No such file"):
    list(read_documents("a.txt"))
  monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied", "a")))
  with pytest.raises(UserError, match="cannot read a.txt .Permission denied"):
    list(read_documents("a.txt"))


def test_names_are_shown_on_one_line():
  assert shown("ä b\n\udcff.txt") == "ä b\\n\\xff.txt"


@pytest.mark.parametrize("packer", PACKERS)
def test_damaged_lines_cost_only_themselves(packer):
  """2,000 records, a tenth of them hit by chance: all others are found, and no error is of another kind."""
  chance, lines, whole = random.Random(1), [], {}
  for number in range(1, 2001):
    text = "".join(chance.choices("ab \u20ac\U0001f600\"\\\n{}[],:", k=chance.randrange(1, 30))) + "."
    line = bytearray(json.dumps({"text": text, "n": number}, ensure_ascii=chance.random() < 0.5).encode())
    if chance.random() < 0.1:
      for _ in range(chance.randrange(1, 5)):
        line[chance.randrange(len(line))] = chance.choice([0, 9, 34, 92, 123, 125, 255, *range(32, 127)])
    else:
      whole[f"a.jsonl:{number}"] = text
    lines.append(bytes(line))
  data, bad = b"\n".join(lines), []
  found = dict(read("a.jsonl", PACKERS[packer](data), bad=bad.append))
  assert whole.items() <= found.items() and 0 < len(bad) == 2000 - len(found)
  assert all(message.startswith("a.jsonl:") and "\n" not in message for message in bad)


@pytest.mark.parametrize("packer", PACKERS)
def test_a_damaged_file_ends_in_a_line_or_in_documents(packer):
  """200 files with bytes changed, lost and put in, in what is packed and in what is unpacked."""
  chance = random.Random(2)
  samples = [LINES, json.dumps([{"text": "one"}] * 9, indent=1).encode(), b"plain text " * 9, b'{"text": ' * 9]
  for _ in range(200):
    name, data = chance.choice(["a.jsonl", "a.json", "a.txt"]), bytearray(chance.choice(samples))
    damage(data, chance)
    packed = bytearray(PACKERS[packer](bytes(data)))
    if packer and chance.random() < 0.5:
      damage(packed, chance)
    bad = []
    documents = read(name, bytes(packed), bad=bad.append)
    assert all(text.encode().strip() for _, text in documents)
    assert all("\n" not in message for message in bad)


def damage(data, chance):
  for _ in range(chance.randrange(1, 4)):
    place = chance.randrange(len(data))
    data[place:place + chance.randrange(0, 3)] = chance.randbytes(chance.randrange(0, 3))
  if chance.random() < 0.2:
    del data[chance.randrange(len(data) + 1):]
