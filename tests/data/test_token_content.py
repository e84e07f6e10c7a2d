"""The text behind each token."""

import pytest
import seqio

from gpt4x.data import vocabularies
from gpt4x.data.vocabularies import HuggingFaceVocabulary, LosslessSentencePieceVocabulary, MarkedVocabulary, Marks

TEXTS = ["plain text, twice: plain text", "é ü 😀 ▁ \n\t  two  blanks", "", "  ahead", "日本語"]


def whole(vocabulary, text):
  return b"".join(vocabularies.token_content(vocabulary, token) for token in vocabulary.encode(text))


@pytest.mark.parametrize("text", TEXTS)
def test_bytes(text):
  assert whole(seqio.ByteVocabulary(), text) == text.encode()
  assert [vocabularies.token_content(seqio.ByteVocabulary(), token) for token in (0, 1, 2, 259)] == [b""] * 4


@pytest.mark.parametrize("text", TEXTS)
def test_sentence_pieces(text, tmp_path):
  path = tmp_path / "small.model"
  vocabularies.train_sentencepiece(iter(TEXTS * 20), 300, path)
  vocabulary = LosslessSentencePieceVocabulary(path)
  assert whole(vocabulary, text) == text.encode()
  assert vocabularies.token_content(vocabulary, vocabulary.eos_id) == b""


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_pairs(text, tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
      vocab_size=300, special_tokens=["<end>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
  made.train_from_iterator(TEXTS * 5, trainer)
  made.save(str(tmp_path / "tokenizer.json"))
  vocabulary = HuggingFaceVocabulary(tmp_path / "tokenizer.json", eos="<end>")
  assert whole(vocabulary, text) == text.encode()
  assert vocabularies.token_content(vocabulary, vocabulary.eos_id) == b""


def test_marks_are_no_text():
  vocabulary = MarkedVocabulary(Marks("bytes"))
  assert whole(vocabulary, "Straße") == "Straße".encode()
  assert vocabularies.token_content(vocabulary, vocabulary.vocab_size - 1) == b""
