"""A store that does not hold what was written: every kind of damage is one line that names it, wherever it is read."""

import json
import random
import shutil
import threading

import numpy as np
import pytest
import seqio

from gpt4x.data import data_dir, stream, token_store, tokenization
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.errors import UserError
from tests.data.test_token_store import source

DOCUMENTS = [[i, i + 1, 1] for i in range(3, 90)] + [[7] * 50]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """A data directory with a store of the split `train`, made once."""
  seqio.TaskRegistry.add(
      "toy_damage", source=source(DOCUMENTS, splits=("train", "validation")), preprocessors=[],
      output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(300, eos_id=1))})
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(tmp_path_factory.mktemp("made")))
    tokenization.open_or_build(seqio.get_mixture_or_task("toy_damage"), "train").check()
    yield data_dir()
  seqio.TaskRegistry.remove("toy_damage")


@pytest.fixture(name="dataset")
def _dataset():
  return Dataset(DatasetConfig("toy_damage", {"targets": 8}, 4))


@pytest.fixture(name="store")
def _store(made, tmp_path, monkeypatch):
  """The folder of the split `train`, whole so far."""
  shutil.copytree(made, tmp_path / "data")
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  path, = (tmp_path / "data" / "tokens").iterdir()
  return path


READERS = {
    "train": lambda dataset: [next(batches) for batches in [dataset.train()] for _ in range(3)],
    "evaluate": lambda dataset: list(dataset.evaluation("train")),
    "documents": lambda dataset: list(dataset.documents("train")),
}
each_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def flip(path, place, bit=0):
  data = bytearray(path.read_bytes())
  data[place] ^= 1 << bit
  path.write_bytes(data)


def change_spec(store, **values):
  path = store / "spec.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reverse_offsets(store):
  offsets = np.load(store / "offsets.npy")
  np.save(store / "offsets.npy", offsets[::-1])


def swap_offsets(store):
  offsets = np.load(store / "offsets.npy")
  offsets[[5, 6]] = offsets[[6, 5]]
  np.save(store / "offsets.npy", offsets)


DAMAGES = {
    "a token": lambda store: flip(store / "tokens.bin", 10),
    "a token beyond the vocabulary": lambda store: flip(store / "tokens.bin", 41, bit=7),
    "the last token": lambda store: flip(store / "tokens.bin", -1),
    "an offset": lambda store: flip(store / "offsets.npy", -12),
    "reversed offsets": reverse_offsets,
    "swapped offsets": swap_offsets,
    "equal offsets": lambda store: np.save(store / "offsets.npy", np.zeros(len(DOCUMENTS) + 1, np.int64)),
    "offsets of another type": lambda store: np.save(
        store / "offsets.npy", np.load(store / "offsets.npy").astype(np.float64)),
    "the hash": lambda store: change_spec(store, content="0123456789abcdef"),
    "the type": lambda store: change_spec(store, dtype="uint8", tokens=2 * (3 * 87 + 50)),
    "a signed type": lambda store: change_spec(store, dtype="int16"),
    "the name": lambda store: change_spec(store, name="toy/train"),
    "the length": lambda store: change_spec(store, tokens=5),
    "the longest": lambda store: change_spec(store, longest=3),
    "no spec": lambda store: (store / "spec.json").unlink(),
    "an empty spec": lambda store: (store / "spec.json").write_text(""),
    "another spec": lambda store: (store / "spec.json").write_text("[1]"),
    "no tokens": lambda store: (store / "tokens.bin").unlink(),
    "empty tokens": lambda store: (store / "tokens.bin").write_bytes(b""),
    "tokens cut off": lambda store: (store / "tokens.bin").write_bytes((store / "tokens.bin").read_bytes()[:-1]),
    "tokens that go on": lambda store: (store / "tokens.bin").write_bytes((store / "tokens.bin").read_bytes() + b"\0"),
    "offsets cut off": lambda store: (store / "offsets.npy").write_bytes((store / "offsets.npy").read_bytes()[:-8]),
    "no offsets": lambda store: (store / "offsets.npy").write_bytes(b""),
}


@each_reader
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_line(dataset, store, damage, read):
  damage(store)
  with pytest.raises(UserError) as error:
    read(dataset)
  message = str(error.value)
  assert message.startswith(f"token store {store} is damaged (") and "\n" not in message
  assert message.endswith(f"delete it (gpt4x cache --remove='{store.name}'), and the next run makes it again")


@pytest.mark.parametrize("name", ["spec.json", "offsets.npy", "tokens.bin"])
def test_any_changed_byte_is_seen_or_changes_nothing(dataset, store, name):
  """40 bytes of each file, changed by chance."""
  chance, whole = random.Random(name), (store / name).read_bytes()
  expected = [document.tolist() for document in dataset.documents("train")]
  for _ in range(40):
    data = bytearray(whole)
    data[chance.randrange(min(len(data), 400))] = chance.choice([0, 9, 32, 34, 57, 123, 255, *range(32, 127)])
    (store / name).write_bytes(data)
    try:
      found = [document.tolist() for document in Dataset(dataset.config).documents("train")]
    except UserError as error:
      assert str(error).startswith(f"token store {store} is damaged (") and "\n" not in str(error)
    else:
      assert found == expected


@each_reader
def test_whole_stores_are_read(dataset, store, read):
  del store
  assert read(dataset)


def test_ids_beyond_the_vocabulary_enter_no_batch(dataset, store, monkeypatch):
  """Even while the check of a large store goes on."""
  monkeypatch.setattr(token_store.TokenStore, "_compare_with_hash", lambda self: None)
  tokens = np.fromfile(store / "tokens.bin", np.uint16)
  tokens[tokens == 7] = 300
  tokens.tofile(store / "tokens.bin")
  with pytest.raises(UserError, match="the tokens of toy_damage/train go beyond the vocabulary of 300: remove them"):
    for _ in zip(range(100), dataset.train()):
      pass


@each_reader
@pytest.mark.parametrize("damage", [name for name in DAMAGES if "offsets" in name])
def test_ends_out_of_order_need_no_hash_to_be_seen(dataset, store, monkeypatch, damage, read):
  """Else a row would look for its next token for ever."""
  monkeypatch.setattr(token_store.TokenStore, "_compare_with_hash", lambda self: None)
  DAMAGES[damage](store)
  with pytest.raises(UserError, match="is damaged"):
    for _ in range(100):
      read(dataset)


def test_a_file_cut_off_while_it_is_read_ends_training_in_a_line(dataset, store):
  """And not by a signal."""
  batches = dataset.train()
  next(batches)
  for name in ("tokens.bin", "offsets.npy"):
    with open(store / name, "r+b") as file:
      file.truncate(0)
  with pytest.raises(UserError, match="damaged .a file was cut off"):
    next(batches)


@pytest.fixture(name="slow")
def _slow(monkeypatch):
  """The check of a store that is so large that it goes on until this event."""
  monkeypatch.setattr(stream, "_PATIENCE", 0.0)
  go_on, compare = threading.Event(), token_store.TokenStore._compare_with_hash
  monkeypatch.setattr(token_store.TokenStore, "_compare_with_hash", lambda self: (go_on.wait(60), compare(self)))
  return go_on


def test_damage_found_later_ends_training_at_the_next_batch(dataset, store, slow):
  flip(store / "tokens.bin", 10)
  batches = dataset.train()
  next(batches)
  slow.set()
  opened, = batches._stores
  opened._check.join()
  with pytest.raises(UserError, match="is damaged"):
    next(batches)


def test_evaluation_ends_when_its_tokens_are_known_to_be_whole(dataset, store, slow):
  flip(store / "tokens.bin", 10)
  batches = dataset.evaluation("train")
  for _ in range(batches._remaining):
    next(batches)
  slow.set()
  with pytest.raises(UserError, match="is damaged"):
    next(batches)
