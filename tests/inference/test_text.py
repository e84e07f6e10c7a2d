"""A row's text: what is shown of it, where it ends, and that neither depends on which tokens come together."""

import inspect
import pydoc

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import seqio

from gpt4x.data import vocabularies
from gpt4x.inference.text import Text
from gpt4x.media.medium import Audio, Image
from gpt4x.media.tokens import MediaTokens
from gpt4x.media.vocabulary import MediaVocabulary

EOS = 1


@pytest.fixture(name="vocabulary", scope="module", params=["bytes", "sentencepiece", "words", "media"])
def _vocabulary(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("vocabularies")
  if request.param == "bytes":
    return seqio.ByteVocabulary()
  if request.param == "media":
    return MediaVocabulary(MediaTokens(image="grey", audio="pcm:8000", sizes=2))
  if request.param == "words":
    return vocabularies.write_words(["<eos>", "<unk>", *"abcdef", "ab", "ünï"], folder)
  vocabularies.train_sentencepiece([inspect.getsource(pydoc), "tabs\tand ünicode"], 400, folder / "a.model")
  return vocabularies.LosslessSentencePieceVocabulary(folder / "a.model")


def write(vocabulary, prompt, tokens, sizes, **options):
  """The Text of tokens that come in pieces of these sizes, and what was shown of each piece."""
  text, shown = Text(vocabulary, vocabulary.encode(prompt), len(tokens), **options), []
  pieces, start = [], 0
  while start < len(tokens):
    pieces.append(tokens[start:start + sizes[len(pieces) % len(sizes)]])
    start += len(pieces[-1])
  for piece in pieces:
    shown.append(text.add(piece, [-float(token) for token in piece]))
  return text, shown


def reference(vocabulary, prompt, tokens, stop):
  """(text, reason, number of tokens), token by token, as the words say it."""
  ids = vocabulary.encode(prompt)
  decode = lambda written: vocabulary.decode([*ids, *written])[len(vocabulary.decode(ids)):].rstrip("\ufffd")
  for count in range(1, len(tokens) + 1):
    if tokens[count - 1] == vocabulary.eos_id:
      return decode(tokens[:count - 1]), "eos", count
    text = decode(tokens[:count])
    if places := [text.index(one) for one in stop if one in text]:
      return text[:min(places)], "stop", count
  return decode(tokens), "length", len(tokens)


@pytest.mark.parametrize("sizes", [[1], [4], [40]], ids=str)
@pytest.mark.parametrize("last", ["", "memö"])
def test_a_prompt_of_several_documents_loses_nothing(vocabulary, sizes, last):
  """As a conversation is, with an end behind each answer, at which decoding would stop."""
  tokens = vocabulary.encode("ab a ünï bc")
  expected, pieces = write(vocabulary, last, tokens, sizes)
  text = Text(vocabulary, [*vocabulary.encode("a b"), vocabulary.eos_id, *vocabulary.encode(last)], len(tokens))
  shown = [text.add(tokens[i:i + sizes[0]], [0.0] * sizes[0]) for i in range(0, len(tokens), sizes[0])]
  assert shown == pieces and text.text == expected.text and expected.text


@settings(deadline=None, max_examples=150)
@given(data=st.data(), prompt=st.sampled_from(["", "a", "a b", "memö", "x \ufffd"]),
       stop=st.lists(st.text("ab \nü", min_size=1, max_size=4), max_size=3),
       sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_text_is_that_of_one_token_after_the_other(vocabulary, data, prompt, stop, sizes):
  """Characters of several tokens, stops within and over pieces, and several of them."""
  if isinstance(vocabulary, vocabularies.WordVocabulary):
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=24))
  elif isinstance(vocabulary, MediaVocabulary):
    whole = vocabulary.encode_parts([Image(np.zeros((1, 2, 1), np.uint8)), "a", Audio(np.zeros(1, np.int16), 8000)])
    tokens = data.draw(st.lists(st.sampled_from([*whole.tolist(), *vocabulary.encode("ü b"), EOS]), min_size=1,
                                max_size=24) | st.just([*whole.tolist(), *vocabulary.encode("ü"), *whole.tolist()]))
  else:
    alphabet = [*vocabulary.encode("abab bü€ \naba"), EOS, vocabulary.encode("€")[0], vocabulary.encode("ü")[-1]]
    tokens = data.draw(st.lists(st.sampled_from(alphabet), min_size=1, max_size=24))
  text, shown = write(vocabulary, prompt, tokens, sizes, stop=stop)
  expected, reason, count = reference(vocabulary, prompt, tokens, stop)
  assert (text.text, text.finish_reason) == (expected, reason)
  assert text.tokens == tokens[:count] and text.log_probs == [-float(token) for token in tokens[:count]]
  assert "".join(shown) == expected, "what was shown is never taken back"


def test_a_character_and_a_stop_are_shown_when_they_are_whole():
  vocabulary = seqio.ByteVocabulary()
  tokens = vocabulary.encode("aü-EN-ENDx")
  text, shown = write(vocabulary, "", tokens, [1], stop=["-END"])
  assert shown == ["a", "", "ü", "", "", "", "-EN", "", "", "", ""] and text.text == "aü-EN"
  assert text.finish_reason == "stop" and text.tokens == tokens[:-1]


def test_a_stop_that_only_begins_is_shown_at_the_end():
  _, shown = write(seqio.ByteVocabulary(), "", seqio.ByteVocabulary().encode("a-EN"), [2], stop=["-END"])
  assert shown == ["a", "-EN"]


def test_a_token_costs_the_same_however_long_the_text(monkeypatch):
  vocabulary = seqio.ByteVocabulary()
  decoded = []
  decode = vocabulary.decode
  monkeypatch.setattr(vocabulary, "decode", lambda ids: decoded.append(len(ids)) or decode(ids))
  tokens = vocabulary.encode("abc\u00fc" * 200)
  write(vocabulary, "a prompt", tokens, [32])
  assert sum(decoded) < 6 * len(tokens) and max(decoded) < 100


@pytest.mark.parametrize("vocabulary", ["bytes", "media"], indirect=True)
@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 3]], ids=str)
def test_characters_of_many_tokens_come_whole_however_their_tokens_come(vocabulary, sizes):
  """And bytes that are none are passed over."""
  content = "a€b\N{SLIGHTLY SMILING FACE}\N{SLIGHTLY SMILING FACE}載".encode()
  content += b"\xe2\x82\xf0\x9f\x99" + "ü載".encode()
  tokens = [3 + byte for byte in content]
  text, shown = write(vocabulary, "", tokens, sizes)
  assert text.text == "".join(shown) == vocabulary.decode(tokens)
  assert text.text.count("載") == 2 and "€b\N{SLIGHTLY SMILING FACE}\N{SLIGHTLY SMILING FACE}" in text.text
