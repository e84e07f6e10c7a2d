"""What every source of documents keeps to; a new one is a line in SOURCES."""

import itertools
import os
import pathlib

import pytest
import seqio

from gpt4x.data import fingerprint, python_stdlib
from gpt4x.data.local_text import LocalText, LocalTextSource


def local_text(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> LocalTextSource:
  del monkeypatch
  return LocalTextSource(LocalText(f"{folder}/**/*.py"))


def stdlib(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> python_stdlib.PythonStdlibSource:
  config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
  monkeypatch.setattr(config, "root", folder)
  monkeypatch.setenv("GPT4X_DATA_DIR", str(folder / next(_fresh)))  # What was prepared stays as it was.
  return python_stdlib.PythonStdlibSource()


_fresh = map("data{}".format, itertools.count())
# How to make a source of the Python files in a folder, and its splits.
SOURCES = {
    "local_text": (local_text, {"train", "validation"}),
    "stdlib": (stdlib, {"train", "validation", "test"}),
}


@pytest.fixture(name="folder")
def _folder(tmp_path):
  for i in range(300):
    (tmp_path / f"module_{i}.py").write_text(f"x = {i}\n")
  return tmp_path


@pytest.fixture(name="make", params=SOURCES)
def _make(request, folder, monkeypatch):
  return lambda: SOURCES[request.param][0](folder, monkeypatch)


@pytest.fixture(name="splits")
def _splits(request):
  return SOURCES[request.node.callspec.params["make"]][1]


def read(source, split, **options):
  return [example["text"].decode() for example in source.get_dataset(split, **options).as_numpy_iterator()]


def test_splits_are_known_disjoint_and_hold_all_that_there_is(make, splits):
  source = make()
  assert set(source.splits) == splits
  texts = [read(source, split, shuffle=False) for split in splits]
  assert all(texts) and all(map(str.strip, itertools.chain(*texts)))
  assert sorted(itertools.chain(*texts)) == sorted(f"x = {i}\n" for i in range(300))  # Each in one split.


def test_order_is_fixed_and_a_shuffle_keeps_the_documents(make):
  source = make()
  plain = read(source, "train", shuffle=False)
  assert read(source, "train", shuffle=False) == read(make(), "train", shuffle=False) == plain
  shuffled = read(source, "train", shuffle=True, seed=1)
  assert sorted(shuffled) == sorted(plain) and shuffled != plain


def test_key_follows_the_content(make, folder):
  def key():
    return fingerprint.task_key(seqio.Task("toy", make(), output_features={}, preprocessors=[]), "train")

  before = key()
  assert key() == before
  (folder / "module_7.py").write_text("x = 'seven'\n")
  os.utime(folder / "module_7.py", ns=(5, 5))
  assert key() != before
