"""SentencePiece models as vocabularies."""

from collections.abc import Sequence
import functools
import os
import pathlib
import struct
import threading
from typing import NamedTuple

from google.protobuf import message
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from gpt4x import run_directory, storage
from gpt4x.data import data_dir, shared_dir
from gpt4x.data.vocabularies.files import FileVocabulary, Missing
from gpt4x.errors import UserError

SPACE = "\u2581"  # SentencePiece's sign for a space.


def model_path(name: str | os.PathLike) -> pathlib.Path:
  """Returns the file of a SentencePiece model; a bare name stands for a file in `$GPT4X_DATA_DIR/vocabularies`."""
  if is_bare(name):
    return (shared_dir() or data_dir()) / "vocabularies" / f"{name}.model"
  return storage.path(name)  # Which leaves a ~ of nobody as it is.


def is_bare(name: str | os.PathLike) -> bool:
  path = pathlib.Path(name)
  return path.suffix != ".model" and len(path.parts) <= 1


class _Model(NamedTuple):
  tokenizer: sentencepiece.SentencePieceProcessor
  sp_model: bytes
  quiet: bytes  # For TensorFlow, whose own copy of SentencePiece cannot be told to log less.


class HeldSentencePieceVocabulary(FileVocabulary, seqio.SentencePieceVocabulary):
  """seqio's class over the content of a file; seqio itself remembers a model by its path alone, whatever lies there."""

  saved_as = run_directory.SENTENCEPIECE

  def __init__(self, file: str):
    super().__init__(file)

  # The base class assigns a path.
  @property
  def _sentencepiece_model_file(self) -> str:
    return self.file

  @_sentencepiece_model_file.setter
  def _sentencepiece_model_file(self, path: str) -> None:
    self._where = path

  def to_bytes(self) -> bytes:
    return self.sp_model

  @property
  def tf_tokenizer(self) -> tf_text.SentencepieceTokenizer:
    return tf_text.SentencepieceTokenizer(model=self._model_context().quiet)

  def _model_context(self) -> _Model:
    try:
      return _load(self._content())
    except (message.DecodeError, RuntimeError, ValueError) as error:
      raise _unusable(self.file) from error


class LosslessSentencePieceVocabulary(HeldSentencePieceVocabulary):
  """A SentencePiece model from `train_sentencepiece`, found at first use.

  SentencePiece takes a U+2581 in the text for a space. Here it is encoded as three bytes, so that every text survives.
  """

  def __init__(self, name: str | os.PathLike, task: str = "TASK"):
    """Takes a name or path as in `model_path`, and the task whose text the model is to be trained on."""
    super().__init__(os.fspath(name))
    self._task = task

  @property
  def by_name(self) -> bool:
    return self._held is None and is_bare(self._where or "")

  @property
  def file(self) -> str:
    return str(model_path(self._where or ""))

  def _remedy(self) -> str:
    return f"make it with: gpt4x vocabulary --task={self._task} --size=4096 --output={self._where}"

  @property
  def _space_ids(self) -> list[int]:
    return [self.tokenizer.PieceToId(f"<0x{byte:02X}>") for byte in SPACE.encode()]

  def _encode(self, s: str) -> Sequence[int]:
    separator, ids = self._space_ids, []
    for part in s.split(SPACE):
      ids += separator + self.tokenizer.EncodeAsIds(part)
    return ids[len(separator):]

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    parts = self.tf_tokenizer.tokenize(tf.strings.split(s, SPACE))
    separator = self._space_ids
    return tf.concat([tf.tile([separator], [parts.nrows(), 1]), parts], axis=1).flat_values[len(separator):]


# Normalization rules: the size of a trie, the trie, here one that no character leads into, and what it leads to.
_NO_RULES = struct.pack("<I", 1024) + bytes(1024) + b"\0"
_LOADING = threading.Lock()  # SentencePiece loads one model at a time.


@functools.lru_cache(maxsize=8)
def _load(content: bytes) -> _Model:
  model = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
  sp_model = model.SerializeToString()  # As seqio writes it.
  tokenizer = sentencepiece.SentencePieceProcessor()
  with _LOADING:
    tokenizer.LoadFromSerializedProto(sp_model)
  if not model.normalizer_spec.precompiled_charsmap:  # Or it says at each use that there is none.
    model.normalizer_spec.precompiled_charsmap = _NO_RULES
  return _Model(tokenizer, sp_model, model.SerializeToString())


def check(vocabulary: seqio.SentencePieceVocabulary) -> None:
  """Loads a model of seqio's own class or one like it; raises UserError if there is none, or another file."""
  file = vocabulary.sentencepiece_model_file
  try:
    vocabulary.load_model()
  except tf.errors.NotFoundError as error:
    raise Missing(f"no vocabulary at {file}: correct the path, or copy the model there") from error
  except (message.DecodeError, RuntimeError, ValueError, OSError, tf.errors.OpError) as error:
    raise _unusable(file) from error


def _unusable(file: str) -> UserError:
  return UserError(f"{file} is not a SentencePiece model, or is damaged: make it again, or copy it again")
