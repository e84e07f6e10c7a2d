"""Vocabularies: how they are found, encode text, are trained, and are saved with a model."""

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
from gpt4x.data.vocabularies.files import FileVocabulary, PythonVocabulary
from gpt4x.data.vocabularies.holding import alike, held
from gpt4x.data.vocabularies.hugging_face import HuggingFaceVocabulary
from gpt4x.data.vocabularies.ids import first_text_id, start_id, token_bytes, token_content
from gpt4x.data.vocabularies.marked import MarkedVocabulary, Marks
from gpt4x.data.vocabularies.saving import (
  check_alike,
  describe,
  extends,
  load,
  register,
  save,
  saved_files,
  saved_in,
  spec,
  spec_in,
)
from gpt4x.data.vocabularies.sentence_pieces import LosslessSentencePieceVocabulary, model_path
from gpt4x.data.vocabularies.training import train_from_task, train_sentencepiece
from gpt4x.data.vocabularies.words import WordVocabulary, write_words

__all__ = [
    "alike", "check_alike", "describe", "extends", "FileVocabulary", "first_text_id", "held", "HuggingFaceVocabulary",
    "load", "LosslessSentencePieceVocabulary", "MarkedVocabulary", "Marks", "model_path", "PythonVocabulary",
    "register", "save", "saved_files", "saved_in", "spec", "spec_in", "start_id", "token_bytes", "token_content",
    "train_from_task", "train_sentencepiece", "WordVocabulary", "write_words"]
