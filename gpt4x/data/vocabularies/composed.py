"""Vocabularies that are made of one of text and of more behind it, as one file."""

from collections.abc import Mapping, Sequence
import functools
import io
import os
import pathlib
import tempfile
import zipfile

import numpy as np
import seqio
import tensorflow as tf

from gpt4x import storage
from gpt4x.data.vocabularies import ids, saving
from gpt4x.data.vocabularies.files import FileVocabulary, PythonVocabulary
from gpt4x.data.vocabularies.sentence_pieces import LosslessSentencePieceVocabulary

_TEXT = "text"


class ExtendedVocabulary(PythonVocabulary, FileVocabulary):
  """A vocabulary of text, `text`, whose ids are the first, and more behind them, which no text has."""

  text: seqio.Vocabulary

  def token_bytes(self) -> np.ndarray:
    """The bytes of text behind each id, [V]."""
    sizes = ids.token_bytes(self.text)
    return np.pad(sizes, (0, self.vocab_size - len(sizes)))

  def token_content(self, token: int) -> bytes:
    """The text behind an id; what comes behind text has none."""
    return ids.token_content(self.text, token) if token < self.text.vocab_size else b""

  @property
  def eos_id(self) -> int | None:
    return self.text.eos_id

  @property
  def unk_id(self) -> int | None:
    return self.text.unk_id

  @property
  def pad_id(self) -> int | None:
    return self.text.pad_id

  def _encode(self, s: str) -> Sequence[int]:
    return self.text.encode(s)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return self.text.encode_tf(s)


def text_of(name: str) -> seqio.Vocabulary:
  """What a setting names: `bytes`, a SentencePiece model by its name or path, or the directory of a run."""
  if name == "bytes":
    return seqio.ByteVocabulary()
  if storage.is_remote(name) or os.path.isdir(os.path.expanduser(name)):
    if not name.endswith(".model") and saving.saved_in(name):
      return saving.load(name)
  return LosslessSentencePieceVocabulary(name)


def files_of(text: seqio.Vocabulary) -> dict[str, bytes]:
  """The files of a vocabulary of text among those of one that it is a part of."""
  return {f"{_TEXT}/{name}": content for name, content in saving.saved_files(text).items()}


def text_in(files: Mapping[str, bytes]) -> seqio.Vocabulary:
  """The inverse of `files_of`."""
  with tempfile.TemporaryDirectory() as folder:
    for name, content in below(files, _TEXT).items():
      pathlib.Path(folder, name).write_bytes(content)
    return saving.load(folder)


def below(files: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
  """Those of a folder."""
  return {name.removeprefix(f"{folder}/"): content for name, content in files.items() if name.startswith(f"{folder}/")}


def packed(files: Mapping[str, bytes]) -> bytes:
  """A zip file, the same for the same content."""
  return _packed(tuple(files.items()))


@functools.lru_cache(maxsize=4)
def _packed(files: tuple[tuple[str, bytes], ...]) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in files:
      archive.writestr(zipfile.ZipInfo(name), content)
  return buffer.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
  """The inverse of `packed`; a ValueError if the content is none."""
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      return {name: archive.read(name) for name in archive.namelist()}
  except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
    raise ValueError(error) from error
