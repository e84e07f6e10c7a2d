"""Which vocabulary a run uses, and that it stays the same."""

import seqio

from gpt4x.data.vocabularies import saving, sentence_pieces
from gpt4x.data.vocabularies.files import FileVocabulary, Missing
from gpt4x.errors import UserError


def held(vocabulary: seqio.Vocabulary, own: seqio.Vocabulary | None = None) -> seqio.Vocabulary:
  """A vocabulary that encodes from now on as it would now, whatever becomes of its file.

  It is `own` if the vocabulary is of the same class and known by no more than a name, or its file cannot be read. A
  UserError if there is no vocabulary.
  """
  fits = own is not None and saving.class_name(own) == saving.class_name(vocabulary)
  try:
    if isinstance(vocabulary, FileVocabulary):
      return vocabulary.held(own if fits else None)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
      sentence_pieces.check(vocabulary)  # This object keeps what it has loaded.
  except Missing:
    if not fits:
      raise
    return own
  return vocabulary


def alike(one: seqio.Vocabulary, other: seqio.Vocabulary) -> bool:
  """Whether two vocabularies are known to encode alike."""
  try:
    return one is other or one == other or saving.spec(one) == saving.spec(other)
  except UserError:  # There is no more to compare.
    return False
