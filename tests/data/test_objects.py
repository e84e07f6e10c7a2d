"""A corpus in a bucket is that of the same files on this machine: the same files, order, documents, tokens, batches."""

import bz2
import gzip
import json
import os
import pathlib

import numpy as np
import pytest
import seqio

from gpt4x import storage
from gpt4x.data import objects, stream, tokenization
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.errors import UserError
from tests.buckets import put

lines = lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts)
FILES = {
    "c/a.txt": "first\nsecond " * 40, "c/B.txt": "capital " * 40, "c/deep/er/b.md": "Ü\0 " * 50,
    "c/d.jsonl": lines(f"line {i} " * 20 for i in range(30)),
    "c/e.jsonl.gz": gzip.compress(lines(["zip " * 30]).encode()), "c/f.bz2": bz2.compress(b"two " * 30),
    "c/é.txt": "accent " * 30, "c/empty.txt": "", "c/.hidden.txt": "no " * 30,
    "c/.dir/x.txt": "no " * 30, "c/[x].txt": "brackets " * 20, "v.txt": "held out " * 20,
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))


def write(url=None):
  """Writes FILES, here or in a bucket."""
  for name, content in FILES.items():
    if url:
      put(f"{url}/{name}", content)
    else:
      os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
      pathlib.Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def task(files, **kwargs):
  return seqio.Task("toy", source=LocalTextSource(LocalText(files, **kwargs)),
                    preprocessors=[text_to_targets, tokenize, append_eos],
                    output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)})


def found(pattern):
  return [path for path, _, _ in LocalText(pattern).find()[0]]


@pytest.mark.parametrize("pattern", [
    "c/**/*.txt", "c/**", "**/*.txt", "**/*", "c/*", "c/*.jsonl*", "c/.*", "c/[ab].txt", "c/[[]x].txt", "c/d*/*/*.md",
    "c/a.txt", "**/er/*", "c/**/**/*.md"])
def test_a_pattern_finds_what_it_finds_on_this_machine(gs, pattern):
  write()
  write(gs)
  assert found(f"{gs}/{pattern}") == [f"{gs}/{name}" for name in found(pattern)]


def test_files_of_several_patterns_come_in_order_of_their_names(bucket):
  write(bucket)
  assert found([f"{bucket}/c/d.*", f"{bucket}/c/*.txt"]) == [
      f"{bucket}/c/{name}" for name in ("B.txt", "[x].txt", "a.txt", "d.jsonl", "empty.txt", "é.txt")]
  train, validation = LocalText(f"{bucket}/**/*.txt", f"{bucket}/v.txt").find()
  assert f"{bucket}/v.txt" not in dict(part[:2] for part in train) and [part[0] for part in validation] == [
      f"{bucket}/v.txt"]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("seed", [None, 3])
def test_documents_are_those_of_the_same_files_here(bucket, monkeypatch, split, seed):
  monkeypatch.setattr(objects, "_PIECE", 100)  # So that a file comes in several pieces.
  write()
  write(bucket)
  local, remote = (list(LocalTextSource(LocalText(files)).documents(split, seed))
                   for files in ("c/**/*", f"{bucket}/c/**/*"))
  assert remote == [(f"{bucket}/{name}", text) for name, text in local] and len(local) > 5


def test_tokens_and_batches_are_those_of_the_same_files_here(bucket):
  write()
  write(bucket)
  stores = [tokenization.open_or_build(task(files), "train") for files in ("c/**/*", f"{bucket}/c/**/*")]
  assert stores[0].path != stores[1].path and stores[0].fingerprint == stores[1].fingerprint
  local, remote = (stream.SegmentStream([store], rates=[1.0], batch_size=3, segment_length=16, rows=None, seed=5)
                   for store in stores)
  for _ in range(4):
    for name, values in next(local).items():
      np.testing.assert_array_equal(next_of(remote, name), values, err_msg=name)
    remote.last = None
  remote.set_state(local.get_state())  # A run that began with files here goes on with those in a bucket.


def next_of(batches, name):
  if getattr(batches, "last", None) is None:
    batches.last = next(batches)
  return batches.last[name]


def test_key_follows_content_and_not_time(bucket):
  write(bucket)
  key = lambda: tokenization.identify(task(f"{bucket}/c/**/*"), "train")
  before = key()
  write(bucket)  # The same content at another time.
  assert key() == before
  put(f"{bucket}/c/a.txt", str(FILES["c/a.txt"]).replace("second", "Second"))  # Same size.
  assert key() != before


# What goes wrong.


def fails(match, call):
  with pytest.raises(UserError, match=match) as error:
    call()
  assert "\n" not in str(error.value)


def test_what_is_not_there(bucket):
  scheme = bucket.partition("://")[0]
  put(f"{bucket}/c/a.txt", "text")
  fails(rf"LocalText.files = '{bucket}/c/\*.md' matches no object \(1 below {bucket}/c\)",
        lambda: found(f"{bucket}/c/*.md"))
  fails(f"LocalText.files = '{bucket}/b.txt' matches no object", lambda: found(f"{bucket}/b.txt"))
  fails(f"LocalText.files = '{bucket}/c' matches no object", lambda: found(f"{bucket}/c"))
  for name in ("*.txt", "a.txt"):
    fails(f"LocalText.files = '{scheme}://gpt4x-none/.*there is no bucket {scheme}://gpt4x-none, .*correct the URL",
          lambda: found(f"{scheme}://gpt4x-none/{name}"))
  fails("cannot stand for buckets", lambda: found(f"{scheme}://gpt4x-*/a.txt"))


def test_a_store_that_nobody_knows():
  fails(r"az://b/\*.txt: there is no storage az://", lambda: found("az://b/*.txt"))


def test_a_bad_record_names_the_object(bucket):
  put(f"{bucket}/a.jsonl", lines(["good"]) + "{}\n")
  fails(f"{bucket}/a.jsonl:2: not a JSON object",
        lambda: list(LocalTextSource(LocalText(f"{bucket}/*")).documents("train")))


def test_an_object_that_goes_away_while_it_is_read(gs):
  put(f"{gs}/a.txt", "text " * 99)
  files = LocalText(f"{gs}/*").find()[0]
  storage.file_system(gs).rm(f"{gs}/a.txt")
  _, opened = next(objects.opened(files))
  with pytest.raises(FileNotFoundError):
    opened.read()
