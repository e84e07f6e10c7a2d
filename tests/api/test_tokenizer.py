"""GPT4Tokenizer over each kind of vocabulary."""

import json

import numpy as np
import pytest
import seqio

from gpt4x import GPT4Tokenizer
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from tests.api import small


def pieces(folder, extra_ids):
  vocabularies.train_sentencepiece(["how every page begins"] * 9, 280, folder / "small.model")
  if extra_ids:
    return seqio.SentencePieceVocabulary(str(folder / "small.model"), extra_ids=extra_ids)
  return vocabularies.LosslessSentencePieceVocabulary(folder / "small.model")


def words(folder):
  return vocabularies.write_words(["the", "<unk>", "<mask>", "w1"], folder)


def tokens(folder, mask="[MASK]"):
  tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
  names = ["[PAD]", "</s>", *([mask] if mask else []), "[UNK]", "how", "every", "page"]
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  made.add_special_tokens(names[:3] if mask else names[:2])
  made.save(str(folder / "tokenizer.json"))
  return vocabularies.HuggingFaceVocabulary(folder / "tokenizer.json", eos="</s>")


KINDS = {
    "bytes": (lambda folder: seqio.ByteVocabulary(2), "how é", 260, [0, 1, 2, 259, 260]),
    "bytes alone": (lambda folder: seqio.ByteVocabulary(), "how é", None, [0, 1, 2]),
    "pieces": (lambda folder: pieces(folder, 0), "how é \u2581", None, [0, 1, 2]),
    "pieces with extra ids": (lambda folder: pieces(folder, 2), "how page", 281, [0, 1, 2, 280, 281]),
    "words": (words, "the w1", 2, [1, 2]),
    "a tokenizer.json": (tokens, "how every page", 2, [0, 1, 2]),
    "one without a mask": (lambda folder: tokens(folder, None), "how every page", None, [0, 1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_to_ids_and_back(kind, tmp_path):
  make, text, mask_id, special = KINDS[kind]
  tokenizer = GPT4Tokenizer(make(tmp_path))
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text and not set(ids) & set(special)
  assert (tokenizer.mask_token_id, tokenizer.all_special_ids) == (mask_id, special)
  assert len(tokenizer) == tokenizer.vocab_size == tokenizer.vocabulary.vocab_size
  if tokenizer.eos_token_id is not None:  # Nothing ends at an end, and special tokens have names, or are left out.
    both = [*ids, tokenizer.eos_token_id, *ids]
    assert tokenizer.decode(both) == f"{text}</s>{text}"
    assert len(tokenizer.decode(both, skip_special_tokens=True).replace(" ", "")) == 2 * len(text.replace(" ", ""))
  tokenizer.save_pretrained(tmp_path / "saved")
  again = GPT4Tokenizer.from_pretrained(tmp_path / "saved")
  assert (again.encode(text), again.mask_token_id) == (ids, mask_id)


def test_a_call_gives_lists_or_arrays(tokenizer):
  assert tokenizer("ab") == {"input_ids": [100, 101], "attention_mask": [1, 1]}
  assert tokenizer(["ab", "c"]).input_ids == [[100, 101], [102]]
  one = tokenizer("ab", return_tensors="np")
  assert one.input_ids.tolist() == [[100, 101]] and one["attention_mask"].dtype == np.int32
  right = tokenizer(["ab", "c"], padding=True, return_tensors="jax")
  assert right.input_ids.tolist() == [[100, 101], [102, 0]] and right.attention_mask.tolist() == [[1, 1], [1, 0]]
  left = small.make_tokenizer()
  left.padding_side = "left"
  assert left(["ab", "c"], padding="max_length", max_length=3).input_ids == [[0, 100, 101], [0, 0, 102]]
  assert left("abc", truncation=True, max_length=2).input_ids == [100, 101]
  assert left("c", padding="max_length", max_length=2).attention_mask == [0, 1]
  with pytest.raises(AttributeError, match="no token_type_ids here, only input_ids"):
    _ = one.token_type_ids


@pytest.mark.parametrize("call, message", [
    (dict(text=["ab", "c"], return_tensors="np"), "rows of 1 to 2 tokens make no array: set padding=True"),
    (dict(text="ab", return_tensors="pt"), "return_tensors = 'pt' is unknown"),
    (dict(text="ab", truncation=True), "max_length = None must be at least 1"),
    (dict(text=[3]), "takes text, not a int")])
def test_what_is_wrong_is_told(tokenizer, call, message):
  with pytest.raises(UserError, match=message):
    tokenizer(**call)


def test_a_directory_without_a_tokenizer(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({}))
  with pytest.raises(UserError, match="has no tokenizer"):
    GPT4Tokenizer.from_pretrained(tmp_path)


def test_a_conversation_is_written_by_the_template(tmp_path):
  """The model's own, which stays with the tokenizer; `chat` writes the same ids."""
  tokenizer = GPT4Tokenizer.of_bytes()
  messages = [{"role": "user", "content": "Hi"}]
  text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  assert text == "<|user|>\nHi\n<|assistant|>\n"
  assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == tokenizer.encode(text)
  answered = [*messages, {"role": "assistant", "content": "Yes"}]
  assert tokenizer.apply_chat_template(answered, tokenize=False) == f"{text}Yes</s>\n"
  tokenizer.save_pretrained(tmp_path)
  (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
  again = GPT4Tokenizer.from_pretrained(tmp_path)
  assert again.apply_chat_template(messages, tokenize=False) == "Hi</s>"
  assert again.apply_chat_template(messages) == [*tokenizer.encode("Hi"), tokenizer.eos_token_id]
