"""What vocabularies share that are read from one file, and those that work in Python alone."""

import copy
import functools
import os
from typing import Any, ClassVar, Self

import seqio
import tensorflow as tf

from gpt4x import storage
from gpt4x.data import objects
from gpt4x.errors import UserError


class Missing(UserError):
  """The file of a vocabulary cannot be read."""


class FileVocabulary(seqio.Vocabulary):
  """A vocabulary that is one file, found and read at use: tasks are registered before the data directory is known.

  What a run uses is held (`held`): whatever becomes of the file, every part of the run encodes alike.
  """

  saved_as: ClassVar[str]  # The file's name in a model directory.
  _where: str | None  # The path, or what stands for it until the vocabulary is used.
  _held: bytes | None = None

  @property
  def by_name(self) -> bool:
    """Whether the user has said no more than a name, behind which there may be another file tomorrow."""
    return False

  @property
  def file(self) -> str:
    return os.path.expanduser(self._where or "")  # Which leaves URLs alone.

  def to_bytes(self) -> bytes:
    """The content that another machine needs to encode alike."""
    return self._content()

  @classmethod
  def from_bytes(cls, content: bytes, file: str, **arguments: Any) -> Self:
    """The vocabulary of what `to_bytes` gave; `file` is for messages alone."""
    made = cls(file, **arguments)
    made._held = content
    made._check()
    return made

  @property
  def arguments(self) -> dict[str, Any]:
    """Keyword arguments of `from_bytes`, as JSON: what a vocabulary is beside its file."""
    return {}

  def held(self, own: Self | None = None) -> Self:
    """A copy that holds the content of now; or `own`, that of a run, for what is known by no more than a name."""
    if own is not None and self.by_name:
      return own
    if self._held is not None:
      return self
    made = copy.copy(self)
    made._where, made._held = self.file, self.to_bytes()
    made._check()
    return made

  def _content(self) -> bytes:
    return self._held if self._held is not None else read(self.file, self._remedy())

  def _remedy(self) -> str:
    """The end of the message about a file that cannot be read."""
    return "correct the path"

  def _check(self) -> None:
    """Raises UserError if the content is of no use."""
    _ = self.vocab_size


def read(path: str, remedy: str) -> bytes:
  """A file's content; read again only when the file has changed."""
  try:
    if storage.is_remote(path):
      return _read(*objects.stat(path))
    stat = os.stat(path)
    return _read(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
  except OSError as error:
    raise Missing(f"no vocabulary at {path} ({error.strerror or error}): {remedy}") from error


@functools.lru_cache(maxsize=8)
def _read(path: str, *version: int | str) -> bytes:
  del version
  with storage.errors(path):
    return storage.path(path).read_bytes()


class PythonVocabulary(seqio.Vocabulary):
  """A vocabulary whose `_encode` and `_decode` are Python, which TensorFlow calls."""

  bos_id = None

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    encode = tf.autograph.experimental.do_not_convert(
        lambda text: tf.constant(list(self._encode(text.numpy().decode())), tf.int32))
    return tf.ensure_shape(tf.py_function(encode, [s], tf.int32), [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(lambda ids: self.decode(ids.numpy().tolist()), [ids], tf.string), [])

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """The text [] of ids [n], up to the first end; seqio's own needs an id of padding for what is behind it."""
    return self._decode_tf(ids)
