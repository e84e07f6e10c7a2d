"""A tokenizer.json of Hugging Face as a vocabulary, against the library that made it."""

import json
import shutil
import sys

import gin
from hypothesis import example, given, settings
import numpy as np
import pytest
import seqio

pytest.importorskip("tokenizers", reason="needs the extra huggingface")

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gpt4x.data import vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.vocabularies import HuggingFaceVocabulary
from gpt4x.errors import UserError
from tests.data.test_vocabularies import AWKWARD, TEXT

CORPUS = ["the cat sat on the mat\n", "  return x  # ünïcödé\n", "def cat(mat): pass\n"] * 20
END = "<|endoftext|>"


def byte_level(path, change=lambda tokenizer: None, special=(END,)):
  """A tokenizer as GPT-2's, with as many merges as fit."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), show_progress=False,
                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
  tokenizer.train_from_iterator(CORPUS, trainer)
  change(tokenizer)
  tokenizer.save(str(path))
  return path


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
  return byte_level(tmp_path_factory.mktemp("tokenizers") / "tokenizer.json")


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
@example(text="".join(AWKWARD))
@example(text=f"a {END} b")
@example(text="")
def test_every_text_survives_and_its_bytes_are_counted(path, text):
  vocabulary = HuggingFaceVocabulary(path, END)
  ids = vocabulary.encode(text)
  assert vocabulary.decode(ids) == text and vocabulary.eos_id not in ids
  assert vocabulary.decode([*ids, vocabulary.eos_id, 5]) == text
  assert vocabularies.token_bytes(vocabulary)[ids].sum() == len(text.encode())
  if END not in text:
    assert ids == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids
  assert vocabulary.encode_tf(text).numpy().tolist() == ids
  assert vocabulary.decode_tf(vocabulary.encode_tf(text)).numpy().decode() == text


def test_specials_stand_for_no_text_and_id_0_is_padding_only_if_special(tmp_path):
  def added(tokenizer):
    tokenizer.add_tokens(["<two words>"])

  vocabulary = HuggingFaceVocabulary(byte_level(tmp_path / "a.json", added, ["<pad>", END]), END)
  sizes = vocabularies.token_bytes(vocabulary)
  assert (vocabulary.pad_id, vocabulary.eos_id, sizes[0], sizes[1]) == (0, 1, 0, 0)
  ids = vocabulary.encode("the <two words> ")
  assert vocabulary.vocab_size - 1 in ids and sizes[ids].sum() == len("the <two words> ")
  without = HuggingFaceVocabulary(byte_level(tmp_path / "b.json", special=[END]), END)
  assert (without.pad_id, without.eos_id, vocabularies.first_text_id(without)) == (None, 0, 0)
  assert HuggingFaceVocabulary(tmp_path / "b.json").eos_id is None


def prefix(tokenizer):
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lower(tokenizer):
  tokenizer.normalizer = normalizers.Lowercase()


def strip(tokenizer):
  tokenizer.add_tokens([tokenizers.AddedToken("<x>", lstrip=True)])


def drop(tokenizer):
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)])


@pytest.mark.parametrize("change", [prefix, lower, strip, drop])
def test_where_the_text_is_changed_no_bytes_are_claimed(tmp_path, change):
  path = byte_level(tmp_path / "tokenizer.json", change)
  assert not vocabularies.token_bytes(HuggingFaceVocabulary(path, END)).any()


def test_neither_cut_nor_padded_nor_random(tmp_path, path):
  config = json.loads(byte_level(tmp_path / "tokenizer.json").read_text())
  config["model"]["dropout"] = 0.9
  config["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
  config["padding"] = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": END}
  (tmp_path / "tokenizer.json").write_text(json.dumps(config))
  text = "the cat sat on the mat " * 3
  expected = HuggingFaceVocabulary(path).encode(text)
  vocabulary = HuggingFaceVocabulary(tmp_path / "tokenizer.json")
  assert all(vocabulary.encode(text) == expected for _ in range(5))


def test_kept_with_a_model(tmp_path):
  path = byte_level(tmp_path / "tokenizer.json")
  original = HuggingFaceVocabulary(path, END)
  vocabularies.save(original, tmp_path / "run")
  expected, spec = original.encode("the ünïcödé cat"), vocabularies.spec(original)
  assert vocabularies.spec(HuggingFaceVocabulary(path)) != spec
  path.unlink()
  loaded = vocabularies.load(tmp_path / "run")
  assert loaded.encode("the ünïcödé cat") == expected and loaded.eos_id == 0 and vocabularies.spec(loaded) == spec
  assert tokenizers.Tokenizer.from_file(str(tmp_path / "run" / "tokenizer.json"))  # Anyone's.
  (tmp_path / "run" / "tokenizer.json").write_text("{}")
  with pytest.raises(UserError, match="tokenizer.json is damaged"):
    vocabularies.load(tmp_path / "run")


def test_a_task_reads_it_and_a_run_keeps_it(tmp_path, path, monkeypatch, capfd):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  (tmp_path / "a.txt").write_text("the cat")
  (tmp_path / "b.txt").write_text("on the mat")
  mine = shutil.copy(path, tmp_path / "tokenizer.json")
  seqio.TaskRegistry.add(
      "toy_tokenizer", source=LocalTextSource(LocalText(f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")),
      preprocessors=[text_to_targets, tokenize, append_eos],
      output_features={"targets": seqio.Feature(HuggingFaceVocabulary(mine, END))})
  try:
    config = DatasetConfig("toy_tokenizer", {"targets": 8}, 1)
    dataset = Dataset(config)
    document, = dataset.documents("validation")
    assert document.tolist() == [*tokenizers.Tokenizer.from_file(str(path)).encode("on the mat").ids, 0]
    batch = next(dataset.evaluation("validation"))
    assert batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0].tolist() == document.tolist()
    vocabularies.save(dataset.vocabulary, tmp_path / "run")
    (tmp_path / "tokenizer.json").unlink()
    capfd.readouterr()
    again, = Dataset(config, vocabularies.load(tmp_path / "run")).documents("validation")
    assert np.array_equal(again, document) and "tokenizing" not in capfd.readouterr().err
  finally:
    seqio.TaskRegistry.remove("toy_tokenizer")


def test_mistakes_are_one_line(tmp_path, path, monkeypatch):
  with pytest.raises(UserError, match="no token '<|endoftxt|>' to end a document: did you mean <|endoftext|>"):
    _ = HuggingFaceVocabulary(path, "<|endoftxt|>").eos_id
  for content in b"", b"{}", b"[" * 100_000, b"\xff":
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path}/tokenizer.json is no tokenizer.json") as error:
      vocabularies.held(HuggingFaceVocabulary(tmp_path / "tokenizer.json"))
    assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="no vocabulary at /nowhere/tokenizer.json"):
    vocabularies.held(HuggingFaceVocabulary("/nowhere/tokenizer.json"))
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  (tmp_path / "tokenizer.json").write_bytes(path.read_bytes() + b"\n")
  with pytest.raises(UserError, match=r"needs the package tokenizers .*pip install 'gpt4x\[huggingface\]'"):
    HuggingFaceVocabulary(tmp_path / "tokenizer.json").encode("x")


@pytest.mark.parametrize("converter", ["stream", "lm"])
def test_documents_begin_with_the_token_that_begins_them(tmp_path, monkeypatch, converter):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  for name in "ab":
    (tmp_path / f"{name}.txt").write_text("the cat")
  path = byte_level(tmp_path / "tokenizer.json", special=["<pad>", "<s>", END])
  seqio.TaskRegistry.add(
      "toy_beginning", source=LocalTextSource(LocalText(f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")),
      preprocessors=[text_to_targets, tokenize, append_eos],
      output_features={"targets": seqio.Feature(HuggingFaceVocabulary(path, END, "<s>"))})
  try:
    dataset = Dataset(DatasetConfig("toy_beginning", {"targets": 8}, 1, feature_converter=converter))
    vocabulary = dataset.vocabulary
    assert (vocabulary.bos_id, vocabularies.start_id(vocabulary)) == (1, 1)
    batch = next(dataset.evaluation("validation"))
    there = batch["decoder_segment_ids"] > 0
    assert batch["decoder_target_tokens"][there].tolist() == [*vocabulary.encode("the cat"), 2]
    assert batch["decoder_input_tokens"][there].tolist() == [1, *vocabulary.encode("the cat")]
  finally:
    seqio.TaskRegistry.remove("toy_beginning")


def test_the_tokenizer_of_a_model_directory_by_name(tmp_path):
  path = byte_level(tmp_path / "tokenizer.json", special=["<pad>", "<s>", END])
  original = HuggingFaceVocabulary(path, END, "<s>")
  named = HuggingFaceVocabulary()
  with pytest.raises(UserError, match="LocalText.tokenizer is not set"):
    _ = named.eos_id
  gin.parse_config(f"LocalText.tokenizer = '{tmp_path}/run'")
  with pytest.raises(UserError, match=f"no vocabulary at {tmp_path}/run/tokenizer.json .*set LocalText.tokenizer"):
    vocabularies.held(named)
  assert vocabularies.held(named, original) is original  # A run's own, where the directory has gone.
  vocabularies.save(original, tmp_path / "run")
  held = vocabularies.held(named)
  assert vocabularies.spec(held) == vocabularies.spec(named) == vocabularies.spec(original)
  assert (named.eos_id, named.bos_id, held.eos_id, held.bos_id) == (2, 1, 2, 1)
  spec = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
  (tmp_path / "run" / "vocabulary.json").write_text(json.dumps(spec | {"bos": 5}))
  for read in (lambda: vocabularies.load(tmp_path / "run"), lambda: vocabularies.held(HuggingFaceVocabulary())):
    with pytest.raises(UserError, match="bos"):
      read()
  del spec["bos"]  # As earlier versions saved it.
  (tmp_path / "run" / "vocabulary.json").write_text(json.dumps(spec))
  loaded = vocabularies.load(tmp_path / "run")
  assert (loaded.eos_id, loaded.bos_id, vocabularies.start_id(loaded)) == (2, None, 0)
