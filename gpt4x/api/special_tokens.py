"""Ids of a vocabulary that stand for no text, and the one that hides a token."""

from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio

from gpt4x.data.vocabularies import HuggingFaceVocabulary, WordVocabulary

_MASKS = "<mask>", "[MASK]", "<extra_id_0>", "\u2581<extra_id_0>"
_BYTES = {0: "<pad>", 1: "</s>", 2: "<unk>"}
_WORDS = "<unk>", "<UNK>", "<pad>", "<mask>", "[MASK]"


def special_tokens(vocabulary: Any) -> dict[int, str]:
  """How each special id is written."""
  if isinstance(vocabulary, seqio.ByteVocabulary):
    size = vocabulary.vocab_size
    return _BYTES | {i: f"<extra_id_{size - 1 - i}>" for i in range(size - vocabulary.extra_ids, size)}
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    model, found = vocabulary.tokenizer, {}
    for i in range(vocabulary.vocab_size):
      piece = model.IdToPiece(i)
      if (model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i) or piece in _MASKS
          or piece.startswith("\u2581<extra_id_")):
        found[i] = piece
    return found
  if isinstance(vocabulary, HuggingFaceVocabulary):
    masks = {vocabulary.find(token): token for token in _MASKS}
    return {i: token for i, token in masks.items() if i is not None} | vocabulary.special_tokens
  if isinstance(vocabulary, WordVocabulary):
    return {i: word for i, word in enumerate(vocabulary.words) if word in _WORDS}
  if isinstance(text := getattr(vocabulary, "text", None), seqio.Vocabulary):  # Of text, and of media or marks.
    return special_tokens(text) | getattr(vocabulary, "special_tokens", {})
  named = {"<pad>": vocabulary.pad_id, "</s>": vocabulary.eos_id, "<unk>": vocabulary.unk_id}
  return {i: name for name, i in named.items() if i is not None}


def mask_id(special: dict[int, str]) -> int | None:
  """The id that hides a token: of `<mask>` or `[MASK]`, else of the extra id 0; None if there is none of them."""
  ids = {token: i for i, token in special.items()}
  return next((ids[token] for token in _MASKS if token in ids), None)
