import gzip
import json
import os

import gin
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from gpt4x.data import local_text
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def _write(name, text):
  os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
  with gzip.open(name, "wb") if name.endswith(".gz") else open(name, "wb") as file:
    file.write(text if isinstance(text, bytes) else text.encode())


def _json_lines(texts):
  return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def _read(files, split="train", shuffle=False, seed=None, **kwargs):
  dataset = LocalTextSource(LocalText(files, **kwargs)).get_dataset(split, shuffle=shuffle, seed=seed)
  return {example["name"].decode(): example["text"].decode() for example in dataset.as_numpy_iterator()}


def test_every_kind_of_file():
  _write("c/a.txt", "  one\r\n\ttwo \n")
  _write("c/deep/er/b.md", "Ü\0")
  _write("c/c.txt.gz", "zipped")
  _write("c/d.jsonl", _json_lines(["x\ny", "", "z"]).replace("\n", "\n\n"))
  _write("c/e.jsonl.gz", _json_lines(["\u2028 ü"]))
  _write("c/blank.txt", " \n")
  _write("v.txt", "held out")
  assert _read("c/**/*", validation_files="v.txt") == {
      "c/a.txt": "  one\r\n\ttwo \n", "c/deep/er/b.md": "Ü\0", "c/c.txt.gz": "zipped",
      "c/d.jsonl:1": "x\ny", "c/d.jsonl:5": "z", "c/e.jsonl.gz:1": "\u2028 ü"}
  assert _read("c/**/*", "validation", validation_files="v.txt") == {"v.txt": "held out"}
  assert _read(["c/a.*", "c/*.txt"], validation_files="v.txt").keys() == {"c/a.txt"}


def test_validation_files_are_not_trained_on():
  for name in "abc":
    _write(f"{name}.txt", name)
  assert _read("*.txt", validation_files=[os.path.abspath("b.txt")]).keys() == {"a.txt", "c.txt"}


def test_gin_names_the_files():
  source = LocalTextSource()  # As in a task, registered before gin is read.
  _write("a.txt", "hello")
  gin.parse_config("LocalText.files = '*.txt'\nLocalText.validation_files = ['a.txt']")
  with pytest.raises(UserError, match="leaves no file"):
    source.documents("train")
  _write("b.txt", "bye")
  assert list(source.documents("train")) == [("b.txt", "bye")]


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("a\né"), max_size=300) | st.text(max_size=50))
def test_cut_leaves_about_five_percent(text):
  start = local_text.cut(text)
  assert 0.90 * len(text) - 1 <= start <= 0.95 * len(text)
  lines = text[:int(0.95 * len(text))].splitlines(keepends=True)
  if "\n" in text[len(text) * 90 // 100:len(text) * 95 // 100]:
    assert lines and text[start - 1] == "\n"


def test_few_documents_are_cut_at_a_line_end():
  texts = {"a.txt": "".join(f"line {i}\n" for i in range(200)), "b.txt": "x" * 1000}
  for name, text in texts.items():
    _write(name, text)
  train, validation = _read("*.txt"), _read("*.txt", "validation")
  assert {name: train[name] + validation[name] for name in texts} == texts
  assert train["a.txt"].endswith("\n") and validation["a.txt"].startswith("line 19")
  assert len(validation["b.txt"]) == 50


def test_many_documents_are_held_out_whole():
  texts = [f"document {i}" for i in range(1000)]
  _write("a.jsonl", _json_lines(texts[:500]))
  _write("b.jsonl", _json_lines(texts[500:] + texts))  # All of it twice.
  train, validation = _read("*.jsonl").values(), _read("*.jsonl", "validation").values()
  assert sorted([*train, *validation]) == sorted(texts * 2)
  assert not set(train) & set(validation)
  assert len(set(validation)) == pytest.approx(50, abs=25)


def test_seed_shuffles_files():
  for i in range(20):
    _write(f"{i}.txt", "some text here")
  orders = [list(_read("*.txt", shuffle=shuffle, seed=seed))
            for shuffle, seed in [(True, 1), (True, 1), (True, 2), (False, 1)]]
  assert orders[0] == orders[1] != orders[2] and orders[3] == sorted(orders[3])


def test_fingerprint_follows_the_files():
  _write("a.txt", "hello")
  source = LocalTextSource(LocalText("*.txt"))
  before = source.fingerprint_parts()
  assert before == source.fingerprint_parts()
  os.utime("a.txt", ns=(0, 12345))
  touched = source.fingerprint_parts()
  _write("b.txt", "more")
  assert before != touched != source.fingerprint_parts() != before


@pytest.mark.parametrize("files, content, message", [
    ("*.md", "", r"LocalText.files = '\*.md' matches no file"),
    ((), "", "LocalText.files is not set"),
    ("c*", " \n", "corpus is empty: 1 file.*c.txt"),
    ("c*", b"caf\xe9\n", "c.txt is not UTF-8 at byte 3"),
    ("c*.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "c.jsonl:2: .*not UTF-8 at byte 24"),
    ("c*.jsonl", '{"text": "x"}\n\n{"body": "x"}\n', 'c.jsonl:3: not a JSON object with a "text"'),
    ("c*.jsonl", '{"text": 5}\n', "c.jsonl:1: "),
    ("c*.jsonl", "[1]\n", r"c.jsonl\[0\]: "),
    ("c*.jsonl", "text\n", "c.jsonl:1: "),
    ("c*.jsonl", r'{"text": "\ud800"}', "c.jsonl:1: "),
])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_errors_come_at_once_in_one_line(files, content, message, split):
  _write("c.jsonl" if "jsonl" in str(files) else "c.txt", content)
  with pytest.raises(UserError, match=message) as error:
    LocalTextSource(LocalText(files)).get_dataset(split)
  assert "\n" not in str(error.value)


def test_bad_records_are_skipped_and_counted_on_demand(capfd):
  _write("a.jsonl", '{"text": "one"}\n{"text": 2}\n{"text": "three"}\n')
  _write("b.txt", b"caf\xe9")
  _write("c.txt", "four")
  _write("v.txt", "held out")
  corpus = {"validation_files": "v.txt", "on_bad_record": "skip"}
  with pytest.raises(UserError, match="a.jsonl:2: .*or set LocalText.on_bad_record = 'skip'"):
    _read("*", validation_files="v.txt")
  capfd.readouterr()
  assert list(_read("*", **corpus).values()) == ["one", "three", "four"]
  assert capfd.readouterr().err == (
      "gpt4x: warning: skipped 2 bad records beside 3 documents, as LocalText.on_bad_record = 'skip' has it; the first:"
      ' a.jsonl:2: not a JSON object with a "text", such as {"text": "..."} (its "text" is of type int): correct it\n')
  keys = {str(LocalTextSource(LocalText("*", "v.txt", on_bad_record=policy)).fingerprint_parts())
          for policy in ("raise", "skip")}
  assert len(keys) == 2
  with pytest.raises(UserError, match="on_bad_record = 'ignore' is unknown: use 'raise' or 'skip'"):
    LocalText("*", on_bad_record="ignore")


@pytest.mark.parametrize("texts", [["the same"] * 300, ["x"], ["a"] * 5])
def test_what_leaves_nothing_to_hold_out_names_the_remedy(texts):
  _write("a.jsonl", _json_lines(texts))
  found, errors = [], []
  for split in ("train", "validation"):
    try:
      found += _read("a.jsonl", split).values()
    except UserError as error:
      errors.append(str(error))
  assert found == texts and len(errors) == 1
  assert f"{len(texts)} document(s) are too alike or too short" in errors[0]
  assert "set LocalText.validation_files" in errors[0]


def test_names_of_files_need_not_be_utf8(capfd):
  name = os.fsdecode(b"caf\xe9.txt")
  _write(name, "text")
  _write("v.txt", "held out")
  dataset = LocalTextSource(LocalText("*", "v.txt")).get_dataset("train")
  assert [example["name"] for example in dataset.as_numpy_iterator()] == [b"caf\xe9.txt"]
  _write(name, b"\xff")
  with pytest.raises(UserError, match=r"^caf\\xe9.txt is not UTF-8 at byte 0") as error:
    _read("*", validation_files="v.txt")
  str(error.value).encode()
