"""Prepared data in a bucket: made by one machine, copied by others, whole or not at all."""

import json
import pathlib
import shutil

import pytest
import seqio
import tensorflow as tf

from gpt4x import cli, data, storage
from gpt4x.data import example_rows, objects, prepared, shared, tokenization, vocabularies
from gpt4x.errors import UserError
from tests.buckets import names, put

DOCUMENTS = [[5, 6, 7], [8] * 500, [9, 10]]


def task(documents=DOCUMENTS):
  """A task whose source says no more of its data than a name: other documents have the same key."""
  class Source(seqio.FunctionDataSource):
    def fingerprint_parts(self):
      return {"name": "toy"}

  def dataset(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices(tf.ragged.constant(documents, tf.int32)).map(
        lambda tokens: {"targets": tokens})

  return seqio.Task("toy", source=Source(dataset, splits=["train"]), preprocessors=[],
                    output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(300))})


def tokens(documents=DOCUMENTS):
  store = tokenization.open_or_build(task(documents), "train")
  store.check()
  return [document.tolist() for document in store]


@pytest.fixture(name="machine")
def _machine(tmp_path, monkeypatch):
  """Goes to another machine, which has a disk of its own and one bucket with the others."""
  def go(number, url):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
    monkeypatch.setenv("GPT4X_DATA_DIR", f"{url}/deep/data")
    return data.data_dir()
  return go


def test_one_machine_makes_tokens_and_others_copy_them(bucket, machine, monkeypatch, capsys):
  monkeypatch.setattr(objects, "_PIECE", 300)
  first = machine(1, bucket)
  assert tokens() == DOCUMENTS
  path, = (first / "tokens").iterdir()
  content = json.loads((path / "spec.json").read_text())["content"]
  assert names(f"{bucket}/deep/data") == {
      f"tokens/{path.name}/{file}" for file in ("spec.json", f"{content}/tokens.bin", f"{content}/offsets.npy")}
  monkeypatch.setattr(tokenization, "examples", lambda *args, **kwargs: pytest.fail("ran the task"))
  second = machine(2, bucket)
  assert tokens() == DOCUMENTS
  for file in ("tokens.bin", "offsets.npy", "spec.json"):
    assert (second / "tokens" / path.name / file).read_bytes() == (path / file).read_bytes()
  assert f"copying {bucket}/deep/data/tokens/{path.name} to {second}" in capsys.readouterr().err
  monkeypatch.setattr(objects, "content", lambda *args: pytest.fail("copied again"))
  assert tokens() == DOCUMENTS
  machine(1, bucket)
  assert tokens() == DOCUMENTS


class Killed(BaseException):
  pass


@pytest.mark.parametrize("uploaded", [0, 1, 2])
def test_what_was_not_uploaded_whole_is_not_taken(gs, machine, monkeypatch, uploaded):
  left, upload = [uploaded], storage.upload

  def until_killed(*arguments):
    left[0] -= 1
    if left[0] < 0:
      raise Killed
    upload(*arguments)

  machine(1, gs)
  with monkeypatch.context() as patch:
    patch.setattr(storage, "upload", until_killed)
    patch.setattr(storage, "create_exclusively", until_killed)
    with pytest.raises(Killed):
      tokens([[3]])
  assert len(names(gs)) == uploaded
  machine(2, gs)
  assert tokens() == DOCUMENTS  # It would be [[3]], had the machine taken what is there.
  machine(1, gs)
  assert tokens([[3]]) == DOCUMENTS


def test_of_machines_that_make_the_same_the_first_counts(bucket, machine, monkeypatch):
  create = storage.create_exclusively

  def second(path, content):  # Another machine comes in between, with a source that has an order of its own.
    with monkeypatch.context() as patch:
      patch.setattr(storage, "create_exclusively", create)
      machine(2, bucket)
      assert tokens([[7], [8]]) == [[7], [8]]
      machine(1, bucket)
    return create(path, content)

  machine(1, bucket)
  with monkeypatch.context() as patch:
    patch.setattr(storage, "create_exclusively", second)
    assert tokens() == [[7], [8]]
  assert len(names(bucket)) == 3  # Nothing is left of the one that came second.


def test_a_copy_follows_what_is_in_the_bucket(gs, machine):
  machine(1, gs)
  assert tokens() == DOCUMENTS
  machine(2, gs)
  assert tokens() == DOCUMENTS
  for one in prepared.find():
    prepared.remove(one)
  assert tokens([[4]]) == [[4]]
  machine(1, gs)
  assert tokens() == [[4]]


@pytest.mark.parametrize("file, change, reason", [
    ("*/tokens.bin", lambda content: content[:-1], "its content is not what its hash says"),
    ("*/tokens.bin", lambda content: b"\1" + content[1:], "its content is not what its hash says"),
    ("*/offsets.npy", lambda content: content[:100], "offsets.npy: "),
    ("*/offsets.npy", lambda content: content[:-8], "offsets.npy: "),
    ("*/tokens.bin", None, "an object is missing"),
    ("spec.json", lambda content: b"{", "its spec.json cannot be read")])
def test_damage_in_the_bucket_is_told_and_can_be_mended(gs, machine, file, change, reason):
  machine(1, gs)
  tokens()
  found, = [name for name in names(gs) if pathlib.PurePath(name).match(file)]
  url = storage.path(f"{gs}/{found}")
  if change:
    put(str(url), change(url.read_bytes()))
  else:
    url.unlink()
  here = machine(2, gs)
  with pytest.raises(UserError, match=f"token store {gs}/deep/data/tokens/toy-train.* is damaged .{reason}") as error:
    tokens()
  remedy = str(error.value).partition("(gpt4x cache --remove='")[2].partition("'")[0]
  assert "\n" not in str(error.value) and not list((here / "tokens").iterdir())
  cli.main(["cache", f"--remove={remedy}"])
  assert not names(gs)
  assert tokens() == DOCUMENTS


def test_a_damaged_copy_is_told_and_copied_again(gs, machine):
  here = machine(1, gs)
  tokens()
  path, = (here / "tokens").iterdir()
  (path / "tokens.bin").write_bytes(b"\1" + (path / "tokens.bin").read_bytes()[1:])
  with pytest.raises(UserError, match=f"token store {path} is damaged .*: delete it .rm -r '{path}'., .* copies it"):
    tokens()
  shutil.rmtree(path)
  assert tokens([[3]]) == DOCUMENTS


def test_a_bucket_that_is_not_there_is_told_before_the_work(bucket, machine, monkeypatch):
  scheme = bucket.partition("://")[0]
  machine(1, f"{scheme}://gpt4x-none")
  monkeypatch.setattr(tokenization, "examples", lambda *args, **kwargs: pytest.fail("ran the task"))
  with pytest.raises(UserError, match=f"there is no bucket {scheme}://gpt4x-none") as error:
    tokens()
  assert "\n" not in str(error.value)


# The command.


def test_list_and_removal_are_of_the_bucket(bucket, machine, capsys):
  machine(1, bucket)
  tokens()
  put(f"{bucket}/deep/data/tokens/toy-val-99/abcd/tokens.bin", bytes(2000))  # As a killed upload leaves it.
  put(f"{bucket}/deep/data/content/note", json.dumps({"name": "toy/validation"}))
  put(f"{bucket}/deep/data/vocabularies/mine.model", "no entry")
  machine(2, bucket)  # Which has no copy.
  cli.main(["cache"])
  listed = capsys.readouterr().out.splitlines()
  assert [line.split()[0].rpartition("-")[0] for line in listed[1:-1]] == ["", "toy-train", "toy-val"]
  assert [line.split()[-1] for line in listed[1:-1]] == ["toy/validation", "toy/train", "unfinished"]
  assert listed[-1].startswith("3 entries, ") and listed[-1].endswith(f" in {bucket}/deep/data")
  assert cli.main(["cache", "--remove=*", "--older_than=1"]) == 1
  assert len(names(bucket)) == 6
  put(f"{bucket}/deep/data/tokens/toy-val-9/abcd/tokens.bin", "text")
  cli.main(["cache", "--remove=toy-val-9"])
  assert len(names(bucket)) == 6  # And nothing whose name goes on.
  cli.main(["cache", "--remove=toy-*"])
  assert names(f"{bucket}/deep/data") == {"content/note", "vocabularies/mine.model"}
  machine(1, bucket)
  assert tokens([[4]]) == [[4]]  # The other machine's removal counts here, where there is a copy.


def test_use_is_written_down_once_a_day(gs, machine, monkeypatch):
  machine(1, gs)
  tokens()
  place, = [shared.place(one.path) for one in prepared.find()]
  assert not any(name.endswith("/used") for name in names(gs))
  later = shared.time.time() + 3 * prepared.DAY
  monkeypatch.setattr(shared.time, "time", lambda: later)
  tokens()
  assert any(name.endswith("/used") for name in names(gs))
  with monkeypatch.context() as patch:
    patch.setattr(shared, "made", lambda _: 0.0)
    patch.setattr(shared, "_time", lambda _: later - 3600)
    patch.setattr(storage, "write", lambda *_: pytest.fail("wrote it again"))
    shared.note_use(place)


def test_notes_of_examples_are_shared(gs, machine, monkeypatch):
  machine(1, gs)
  toy = task()
  facts = example_rows._content(toy, "train", {"targets": 8})
  machine(2, gs)
  monkeypatch.setattr(example_rows, "_read_content", lambda *_: pytest.fail("read them again"))
  assert example_rows._content(toy, "train", {"targets": 8}) == facts


# Vocabularies.


def test_vocabulary_by_name_and_by_url(bucket, machine):
  machine(1, bucket)
  path = vocabularies.model_path("mine")
  assert str(path) == f"{bucket}/deep/data/vocabularies/mine.model"
  vocabularies.train_sentencepiece(["how every page begins"] * 9, 280, path)
  machine(2, bucket)
  by_name = vocabularies.LosslessSentencePieceVocabulary("mine")
  by_url = vocabularies.LosslessSentencePieceVocabulary(str(path))
  assert by_name.decode(by_name.encode("every page")) == "every page"
  assert vocabularies.spec(by_name)["sha256"] == vocabularies.spec(by_url)["sha256"]
  vocabularies.train_sentencepiece(["other words"] * 9, 270, path)  # Written over, it is read anew.
  assert by_name.vocab_size == 270
  put(f"{bucket}/words.txt", "<eos>\nthe\n<unk>\n")
  assert vocabularies.WordVocabulary(f"{bucket}/words.txt").encode("the\ncat") == [1, 0, 2]


def test_vocabulary_that_is_not_there(bucket, machine):
  machine(1, bucket)
  for name, where in (("mine", f"{bucket}/deep/data/vocabularies/mine.model"), (f"{bucket}/x.model",) * 2):
    with pytest.raises(UserError, match=f"no vocabulary at {where} .*make it with: gpt4x vocabulary .*--output={name}"):
      _ = vocabularies.LosslessSentencePieceVocabulary(name).vocab_size
  scheme = bucket.partition("://")[0]
  with pytest.raises(UserError, match=f"there is no bucket {scheme}://gpt4x-none"):
    vocabularies.train_sentencepiece(["text"], 270, f"{scheme}://gpt4x-none/x.model")
