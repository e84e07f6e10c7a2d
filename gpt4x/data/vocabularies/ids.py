"""What the ids of a vocabulary stand for."""

from typing import Any

import numpy as np
import seqio

from gpt4x.data.vocabularies.sentence_pieces import SPACE
from gpt4x.errors import UserError


def token_bytes(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns the bytes of text behind each id, [V]: 0 for specials, and for all words, since `<unk>` may be any text.

  A class of one's own may know better, in a method `token_bytes`.
  """
  sizes = np.zeros(vocabulary.vocab_size, np.int32)
  if callable(own := getattr(vocabulary, "token_bytes", None)):
    return _checked(np.asarray(own()), vocabulary)
  if isinstance(vocabulary, seqio.ByteVocabulary):
    sizes[3:3 + 256] = 1
  elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
    model = vocabulary.tokenizer
    for i in range(vocabulary.vocab_size):
      piece = model.IdToPiece(i)
      special = model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i) or piece.startswith(f"{SPACE}<extra_id_")
      sizes[i] = 0 if special else 1 if model.IsByte(i) else len(piece.replace(SPACE, " ").encode())
  return sizes


def token_content(vocabulary: seqio.Vocabulary, token: int) -> bytes:
  """The text behind one id, in UTF-8, of which it may be a part of a character; empty for specials.

  A class of one's own may know better, in a method `token_content`; else it is what the id alone is decoded to.
  """
  if callable(own := getattr(vocabulary, "token_content", None)):
    return own(token)
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return bytes([token - 3]) if 3 <= token < 3 + 256 else b""
  if isinstance(vocabulary, seqio.SentencePieceVocabulary) and token < vocabulary.tokenizer.GetPieceSize():
    model, piece = vocabulary.tokenizer, vocabulary.tokenizer.IdToPiece(token)
    if model.IsByte(token):
      return bytes([int(piece[3:5], 16)])  # <0xE2>
    special = model.IsControl(token) or model.IsUnknown(token) or model.IsUnused(token)
    return b"" if special else piece.replace(SPACE, " ").encode()
  return vocabulary.decode([token]).encode()


def _checked(sizes: Any, vocabulary: seqio.Vocabulary) -> np.ndarray:
  if sizes.shape != (vocabulary.vocab_size,) or sizes.dtype.kind not in "iu" or sizes.min() < 0:
    raise UserError(f"{type(vocabulary).__name__}.token_bytes gives {sizes.dtype} {list(sizes.shape)}: give a whole"
                    f" number of at least 0 for each of the {vocabulary.vocab_size} ids")
  return sizes.astype(np.int32)


def start_id(vocabulary: seqio.Vocabulary) -> int:
  """The input before a document's first token: 0, or what a vocabulary says, such as `<s>` of a tokenizer."""
  return getattr(vocabulary, "start_id", 0)


def first_text_id(vocabulary: seqio.Vocabulary) -> int:
  """The lowest id that may stand for text: 1 where 0 is padding, 0 where it is a word or what is unknown."""
  return 0 if vocabulary.pad_id is None or vocabulary.unk_id == seqio.PAD_ID else 1
