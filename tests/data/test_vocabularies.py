import contextlib
import dataclasses
import hashlib
import inspect
import io
import json
import os
import pathlib
import pydoc

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import sentencepiece
import seqio

from gpt4x import run_directory
from gpt4x.data import vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.preprocessors import text_to_targets, tokenize
from gpt4x.errors import UserError

# Spellings of SentencePiece's own tokens, its stand-ins for a space and for the unknown, and all kinds of blanks.
AWKWARD = ["\u2581", "\u2585", "<0x41>", "</s>", "<unk>", "<pad>", "<extra_id_0>", " ", "  ", "\t", "\n", "\r\n", "\0",
           "\u00a0", "\u2028", "\u3000", "\ufeff", "\ufffd", "e\u0301", "ﬁ", "🏳️‍🌈", "１２３", "        return x\n\n"]
TEXT = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=8)).map("".join)


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocabularies") / "code.model"
  vocabularies.train_sentencepiece([inspect.getsource(pydoc), "tabs\tand ünicode"], 600, path)
  return vocabularies.LosslessSentencePieceVocabulary(path)


@pytest.fixture(name="vocabulary", scope="module", params=["bytes", "sentencepiece"])
def _vocabulary(request, trained):
  return trained if request.param == "sentencepiece" else seqio.ByteVocabulary()


@settings(deadline=None)
@given(text=TEXT)
@example(text="".join(AWKWARD))
@example(text="")
def test_every_text_survives_and_its_bytes_are_counted(vocabulary, text):
  ids = vocabulary.encode(text)
  assert vocabulary.decode(ids) == text
  assert vocabularies.token_bytes(vocabulary)[ids].sum() == len(text.encode())


@settings(max_examples=30, deadline=None)
@given(text=TEXT)
@example(text="".join(AWKWARD))
@example(text="\u2581")
@example(text="")
def test_tensorflow_agrees(vocabulary, text):
  ids = vocabulary.encode_tf(text)
  assert ids.numpy().tolist() == vocabulary.encode(text)
  assert vocabulary.decode(ids) == text


@settings(deadline=None)
@given(text=TEXT)
def test_seqio_s_own_class_loses_only_u2581(trained, text):
  plain = seqio.SentencePieceVocabulary(trained.sentencepiece_model_file)
  assert plain.decode(plain.encode(text)) == text.replace("\u2581", " ")


def test_trained_model(trained):
  assert trained.vocab_size == 600
  assert (trained.pad_id, trained.eos_id, trained.unk_id) == (0, 1, 2)
  text = inspect.getsource(pydoc)
  ids = trained.encode(text)
  assert len(ids) < 0.6 * len(text)
  assert any("\n" in trained.tokenizer.IdToPiece(i) for i in ids)  # Pieces may hold line ends.
  assert len(trained.encode("2023" * 5)) == 20


def test_specials_stand_for_no_text(trained):
  assert vocabularies.token_bytes(seqio.ByteVocabulary(extra_ids=5)).tolist() == [0] * 3 + [1] * 256 + [0] * 5
  assert vocabularies.token_bytes(trained)[:3].tolist() == [0, 0, 0]
  with_extras = seqio.SentencePieceVocabulary(trained.sentencepiece_model_file, extra_ids=5)
  expected = np.append(vocabularies.token_bytes(trained), [0] * 5)
  assert vocabularies.token_bytes(with_extras).tolist() == expected.tolist()


def test_saved_vocabulary_needs_nothing_else(trained, tmp_path):
  copy = tmp_path / "mine.model"
  copy.write_bytes(pathlib.Path(trained.sentencepiece_model_file).read_bytes())
  for i, original in enumerate([seqio.ByteVocabulary(extra_ids=2),
                                vocabularies.LosslessSentencePieceVocabulary(copy),
                                seqio.SentencePieceVocabulary(str(copy), extra_ids=3)]):
    vocabularies.save(original, tmp_path / f"model_{i}")
  copy.unlink()
  for i, original in enumerate([seqio.ByteVocabulary(extra_ids=2), trained,
                                seqio.SentencePieceVocabulary(trained.sentencepiece_model_file, extra_ids=3)]):
    loaded = vocabularies.load(tmp_path / f"model_{i}")
    assert isinstance(loaded, type(original)) and loaded.vocab_size == original.vocab_size
    assert loaded.encode("a\u2581 b") == original.encode("a\u2581 b")
    assert vocabularies.spec(loaded) == vocabularies.spec(original)


def test_load_errors(trained, tmp_path):
  with pytest.raises(UserError, match=run_directory.VOCABULARY):
    vocabularies.load(tmp_path)
  vocabularies.save(trained, tmp_path)
  model = tmp_path / run_directory.SENTENCEPIECE
  model.write_bytes(model.read_bytes()[:-1])
  with pytest.raises(UserError, match="damaged"):
    vocabularies.load(tmp_path)
  with pytest.raises(UserError, match="PassThroughVocabulary"):
    vocabularies.save(seqio.PassThroughVocabulary(10), tmp_path)


WORDS = ["<eos>", "<unk>", "the", "ünïcödé", ",", "\u200b"]


@pytest.fixture(name="words", scope="module")
def _words(tmp_path_factory):
  return vocabularies.write_words(WORDS, tmp_path_factory.mktemp("words"))


@settings(deadline=None)
@given(text=st.lists(st.sampled_from([*WORDS, *AWKWARD, "\x1c", "\x85"]) | st.text(max_size=4)).map(" ".join))
def test_words_are_what_python_splits_lines_into(words, text):
  expected = []
  for number, line in enumerate(text.split("\n")):
    expected += [0] if number else []
    expected += [WORDS.index(word) if word in WORDS else 1 for word in line.split()]
  ids = words.encode(text)
  assert ids == expected
  assert words.encode_tf(text).numpy().tolist() == ids
  assert words.encode(words.decode(ids)) == ids
  assert words.decode_tf(words.encode_tf(text)).numpy().decode() == words.decode(ids)


def test_words_decode_to_lines(words):
  assert words.decode([2, 4, 0, 0, 3, 1]) == "the ,\n\nünïcödé <unk>"
  assert words.decode([0, 2]) == "\nthe" and words.decode([2, 0]) == "the\n" and words.decode([]) == ""
  assert (words.vocab_size, words.eos_id, words.pad_id, words.unk_id) == (6, None, None, 1)
  assert not vocabularies.token_bytes(words).any()


def test_saved_words(words, tmp_path):
  vocabularies.save(words, tmp_path)
  loaded = vocabularies.load(tmp_path)
  assert loaded.words == WORDS and vocabularies.spec(loaded) == vocabularies.spec(words)
  (tmp_path / "words.txt").write_text("<eos>\nthe\n")
  with pytest.raises(UserError, match="words.txt is damaged"):
    vocabularies.load(tmp_path)
  (tmp_path / "words.txt").unlink()
  with pytest.raises(UserError, match="vocabulary.json and the file beside it"):
    vocabularies.load(tmp_path)


def test_words_that_are_none(tmp_path):
  for wrong in (["a", ""], ["a", "b c"], ["a", "b", "a"], ["a", 3]):
    with pytest.raises(UserError, match=f"words.txt: word {len(wrong) - 1}, {wrong[-1]!r}, is empty, has a blank"):
      vocabularies.write_words(wrong, tmp_path)
  without_unknown = vocabularies.write_words(["<eos>", "a"], tmp_path)
  with pytest.raises(UserError, match="the word 'b' is not in .*words.txt, which has no <unk>"):
    without_unknown.encode("a\nb")
  with pytest.raises(UserError, match="no vocabulary at /nowhere/words.txt .*set LocalText.words to a file of UTF-8"):
    vocabularies.WordVocabulary("/nowhere/words.txt").encode("a")


def test_names_and_paths(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  assert vocabularies.model_path("code") == tmp_path / "vocabularies" / "code.model"
  assert vocabularies.model_path("here/code") == pathlib.Path("here/code")
  assert vocabularies.model_path("code.model") == pathlib.Path("code.model")


def test_missing_model_says_how_to_make_it(tmp_path, monkeypatch):
  vocabulary = vocabularies.LosslessSentencePieceVocabulary("code", "my_task")
  assert vocabulary == vocabularies.LosslessSentencePieceVocabulary("code", "my_task")
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  command = "gpt4x vocabulary --task=my_task --size=4096 --output=code"
  with pytest.raises(UserError, match=f"{tmp_path}/vocabularies/code.model .*: make it with: {command}$"):
    vocabulary.encode("x")


@pytest.mark.parametrize("texts, size, message", [([], 300, "empty"), (["", ""], 300, "empty"),
                                                  (["abc"] * 50, 5000, "5000"), (["abc"] * 50, 100, "100")])
def test_training_errors_are_one_line(tmp_path, capfd, texts, size, message):
  with pytest.raises(UserError, match=message) as error:
    vocabularies.train_sentencepiece(texts, size, tmp_path / "x.model")
  assert "\n" not in str(error.value)
  assert not list(tmp_path.iterdir())
  assert capfd.readouterr() == ("", "")


def train(path, text, size=270):
  vocabularies.train_sentencepiece([text * 40], size, path)
  return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())


def test_what_the_file_holds_decides(tmp_path):
  """Objects made before and after a file is replaced, and one that held what was there."""
  path = tmp_path / "code.model"
  first = train(path, "the cat sat on the mat ")
  early = vocabularies.LosslessSentencePieceVocabulary(path)
  assert early.encode("the cat") == first.EncodeAsIds("the cat")
  held = vocabularies.held(early)
  second = train(path, "catch that other cattle ")
  assert first.EncodeAsIds("the cat") != second.EncodeAsIds("the cat")
  for now in (early, vocabularies.LosslessSentencePieceVocabulary(path)):
    assert now.encode("the cat") == now.encode_tf("the cat").numpy().tolist() == second.EncodeAsIds("the cat")
    assert vocabularies.spec(now) == vocabularies.spec(vocabularies.LosslessSentencePieceVocabulary(str(path)))
  path.unlink()
  assert held.encode("the cat") == held.encode_tf("the cat").numpy().tolist() == first.EncodeAsIds("the cat")


def test_directories_of_one_path_are_told_apart(tmp_path):
  """As when a notebook throws a run away and trains another in its place; for seqio's own class, too."""
  for cls in (vocabularies.LosslessSentencePieceVocabulary, seqio.SentencePieceVocabulary):
    for number, text in enumerate(("the cat sat on the mat ", "catch that other cattle ")):
      path = tmp_path / f"{cls.__name__}{number}.model"
      tokenizer = train(path, text)
      vocabularies.save(cls(str(path)), tmp_path / "run")
      assert vocabularies.load(tmp_path / "run").encode("the cat") == tokenizer.EncodeAsIds("the cat")


WRONG_JSON = [
    "", "[]", "3", "null", "{", "[" * 100_000, "{}", '{"class": []}', '{"class": "ByteVocabulary"}',
    *(f'{{"class": "ByteVocabulary", "extra_ids": {value}}}' for value in (
        '"x"', "-1", "1.5", "true", "null", "[]", "1e999", "123456789012", "9" * 5000)),
    '{"class": "WordVocabulary", "sha256": 3}', '{"class": "HuggingFaceVocabulary", "sha256": "", "eos": 3}',
    '{"class": "os.system", "sha256": ""}', '{"class": "LosslessSentencePieceVocabulary", "sha256": "", "x": 1}']


@pytest.mark.parametrize("content", [*(text.encode() for text in WRONG_JSON), b"\xff\xfe{}"],
                         ids=lambda content: content[:60].decode("latin-1"))
def test_a_vocabulary_json_of_any_kind_is_answered_in_one_line(tmp_path, content):
  (tmp_path / run_directory.VOCABULARY).write_bytes(content)
  with pytest.raises(UserError, match=str(tmp_path)) as error:
    vocabularies.load(tmp_path)
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no model " * 50])
@pytest.mark.parametrize("cls, file", [
    ("WordVocabulary", "words.txt"), ("SentencePieceVocabulary", "sentencepiece.model"),
    ("LosslessSentencePieceVocabulary", "sentencepiece.model"), ("HuggingFaceVocabulary", "tokenizer.json")])
def test_a_file_that_is_whole_and_wrong_is_answered_in_one_line(tmp_path, cls, file, content):
  (tmp_path / file).write_bytes(content)
  digest = hashlib.sha256(content).hexdigest()
  (tmp_path / run_directory.VOCABULARY).write_text(json.dumps(
      {"class": cls, "sha256": digest} | ({"eos": None} if cls == "HuggingFaceVocabulary" else {})))
  with pytest.raises(UserError, match=f"{tmp_path}/{file}") as error:
    vocabularies.load(tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [vocabularies.LosslessSentencePieceVocabulary, seqio.SentencePieceVocabulary])
@pytest.mark.parametrize("content", [None, b"", b"no model" * 50], ids=["none", "empty", "other"])
def test_a_task_whose_model_cannot_be_read(tmp_path, make, content):
  path = tmp_path / "x.model"
  if content is not None:
    path.write_bytes(content)
  with a_task(make(str(path))) as name, pytest.raises(UserError, match=str(path)) as error:
    Dataset(DatasetConfig(name, {"targets": 8}, 2))
  assert "\n" not in str(error.value)


@contextlib.contextmanager
def a_task(vocabulary, files=(), validation_files=()):
  seqio.TaskRegistry.add("toy_vocabulary", source=LocalTextSource(LocalText(files, validation_files)),
                         preprocessors=[text_to_targets, tokenize],
                         output_features={"targets": seqio.Feature(vocabulary, add_eos=False)})
  try:
    yield "toy_vocabulary"
  finally:
    seqio.TaskRegistry.remove("toy_vocabulary")


def test_an_unknown_character_of_id_0_is_text(tmp_path, monkeypatch):
  """SentencePiece's own choice of ids: 0 unknown, 1 begin, 2 end, no padding."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["the cat sat on the mat"] * 20), model_writer=model, vocab_size=14, minloglevel=3)
  (tmp_path / "x.model").write_bytes(model.getvalue())
  (tmp_path / "x.txt").write_text("the zebra")
  vocabulary = seqio.SentencePieceVocabulary(str(tmp_path / "x.model"))
  expected = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).EncodeAsIds("the zebra")
  assert 0 in expected and vocabularies.first_text_id(vocabulary) == 0
  assert [vocabularies.first_text_id(one) for one in (seqio.ByteVocabulary(), seqio.PassThroughVocabulary(9))] == [1, 1]
  config = DatasetConfig("toy_vocabulary", {"targets": 16}, 1)
  (tmp_path / "train.txt").write_text("the cat")
  with a_task(vocabulary, str(tmp_path / "train.txt"), str(tmp_path / "x.txt")):
    batch = next(Dataset(config).evaluation("validation"))
    assert batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0].tolist() == expected
    with pytest.raises(UserError, match="text for id 0, which 'lm' takes for padding"):
      Dataset(dataclasses.replace(config, feature_converter="lm"))


def test_training_and_loading_are_quiet(tmp_path, capfd):
  train(tmp_path / "x.model", "a line that is longer than SentencePiece likes " * 300, 300)
  vocabulary = vocabularies.LosslessSentencePieceVocabulary(tmp_path / "x.model")
  vocabularies.save(vocabulary, tmp_path)
  vocabularies.load(tmp_path).encode_tf("a line")
  assert capfd.readouterr() == ("", "")


def test_a_vocabulary_in_the_place_of_another_is_told_in_one_line(tmp_path, capsys):
  train(tmp_path / "x.model", "the cat sat on the mat ")
  train(tmp_path / "x.model", "the cat sat on the mat ")
  assert capsys.readouterr().err == ""
  train(tmp_path / "x.model", "catch that other cattle ")
  line, = capsys.readouterr().err.splitlines()
  assert str(tmp_path / "x.model") in line and "runs keep their own copy" in line


@pytest.mark.parametrize("output", ["{}", "{}/file/x.model", "{}/pipe", "/dev/null/x.model", "", ".", ".."])
def test_outputs_that_no_file_can_have(tmp_path, output):
  (tmp_path / "file").write_text("in the way")
  (tmp_path / "x.txt").write_text("the cat")
  os.mkfifo(tmp_path / "pipe")  # As /dev/null is no file.
  with a_task(seqio.ByteVocabulary(), str(tmp_path / "x.txt")) as task, pytest.raises(
      UserError, match="^(cannot write a vocabulary to|a vocabulary cannot have the name) .*$"):
    vocabularies.train_from_task(task, 300, output.format(tmp_path))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe", "x.txt"] and (tmp_path / "pipe").is_fifo()
