"""A learned classifier of documents: logistic regression on hashed words and pairs of words."""

from collections.abc import Iterable, Iterator
import dataclasses
import functools
import io
import pathlib
import re
import zipfile
import zlib

import gin
import numpy as np

from gpt4x import storage
from gpt4x.data.scripts import UNSPACED
from gpt4x.errors import one_line, require, UserError
from gpt4x.preparation.document import Document, Dropped

_KIND = "gpt4x quality"
_VERSION = 1
_FILE = "quality.npz"
_BATCH = 64  # Documents a step of the training.
_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: products with it spread over the upper bits.


@dataclasses.dataclass(frozen=True)
class Model:
  """Weights by the hash of a feature, as many as a power of two, and the bias."""

  weights: np.ndarray
  bias: float

  def probability(self, text: str) -> float:
    """How probably a text is one of the good, between 0 and 1."""
    buckets, values = features(text, len(self.weights))
    return float(_sigmoid(np.float64(self.bias) + values @ self.weights[buckets].astype(np.float64)))


def _sigmoid(score: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(0.5 * score))  # Never overflows.


@functools.lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
  return zlib.crc32(word.encode("utf-8", "replace"))


def features(text: str, buckets: int) -> tuple[np.ndarray, np.ndarray]:
  """The words and pairs of neighbouring words of a text, without their case, as distinct buckets and their values.

  A value is 1 + the logarithm of the count; the values have length 1 together, so that long texts weigh as short ones.
  A character of a script without blanks between words is a word.
  """
  words = np.fromiter(map(_word_hash, _TOKEN.findall(text.lower())), np.uint64)
  shift = np.uint64(64 - (buckets.bit_length() - 1))
  hashes = np.concatenate([words * _MIX, (words[:-1] * _MIX + words[1:] + np.uint64(1)) * _MIX])
  found, counts = np.unique(hashes >> shift, return_counts=True)
  values = 1 + np.log(counts)
  return found.astype(np.int64), values / max(1e-12, float(np.linalg.norm(values)))


def train(good: Iterable[str], bad: Iterable[str], path: str, buckets: int = 1 << 18, epochs: int = 5,
          learning_rate: float = 0.5, seed: int = 0) -> Model:
  """Trains a classifier on texts of two kinds and writes it to a file, "quality.npz" in `path` if that is a directory.

  The features of all texts are held in memory, 12 bytes each. Both kinds weigh the same, however many there are of
  each. The same texts in the same order give the same file.

  Args:
    good, bad: texts.
    path: a directory that is there, or a file that ends in ".npz".
    buckets: a power of two, at least 2: of weights.
    epochs: passes over the texts.
    learning_rate: of Adagrad (Duchi et al. 2011).
    seed: of the order of the texts.

  Raises UserError if a kind has no texts or an argument is out of its range.
  """
  for name, value, holds, what in (
      ("buckets", buckets, buckets >= 2 and buckets & (buckets - 1) == 0, "a power of two, at least 2"),
      ("epochs", epochs, epochs >= 1, "at least 1"), ("learning_rate", learning_rate, learning_rate > 0, "above 0")):
    if not holds:
      raise UserError(f"{name} = {value!r} must be {what}")
  target = _file(path)
  kinds = [[(found.astype(np.int32), values) for found, values in (features(text, buckets) for text in texts)]
           for texts in (good, bad)]
  for kind, examples in zip(("good", "bad"), kinds, strict=True):
    if not examples:
      raise UserError(f"a classifier of quality needs texts of both kinds, and there are no {kind} ones")
  examples = [example for kind in kinds for example in kind]
  labels = np.repeat([1.0, 0.0], [len(kind) for kind in kinds])
  importance = np.repeat([len(examples) / (2 * len(kind)) for kind in kinds], [len(kind) for kind in kinds])
  weights, squares, bias, bias_squares = np.zeros(buckets), np.full(buckets, 1e-8), 0.0, 1e-8
  for batch in _batches(len(examples), epochs, seed):
    lengths = np.array([len(examples[place][0]) for place in batch])
    found = np.concatenate([examples[place][0] for place in batch])
    values = np.concatenate([examples[place][1] for place in batch])
    rows = np.repeat(np.arange(len(batch)), lengths)
    scores = bias + np.bincount(rows, values * weights[found], len(batch))
    errors = importance[batch] * (_sigmoid(scores) - labels[batch]) / len(batch)
    gradient = np.bincount(found, values * errors[rows], buckets)
    squares += gradient**2
    weights -= learning_rate * gradient / np.sqrt(squares)
    bias_squares += errors.sum()**2
    bias -= learning_rate * errors.sum() / np.sqrt(bias_squares)
  content = io.BytesIO()
  np.savez(content, kind=_KIND, version=_VERSION, weights=weights.astype(np.float32), bias=np.float64(bias))
  storage.write(target, content.getvalue())
  load.cache_clear()  # It may hold an earlier one of this file.
  return Model(weights.astype(np.float32), float(bias))


def _batches(examples: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
  random = np.random.default_rng(seed)
  for _ in range(epochs):
    order = random.permutation(examples)
    for start in range(0, examples, _BATCH):
      yield order[start:start + _BATCH]


def _file(path: str) -> pathlib.Path:
  named = storage.path(path)
  if named.name.endswith(".npz"):
    return named
  if named.is_dir():
    return named / _FILE
  raise UserError(f"{path} is no directory and no .npz file: name one for a classifier of quality")


@functools.lru_cache(maxsize=4)
def load(path: str) -> Model:
  """The classifier that `train` wrote. Raises UserError for another file, or of another version."""
  file = _file(path)
  try:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
      kind, version = str(arrays["kind"]), int(arrays["version"])
      weights, bias = arrays["weights"], float(arrays["bias"])
  except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f"{file} is no classifier of quality ({one_line(error)}): train one") from error
  size = weights.size
  if kind != _KIND or weights.shape != (size,) or weights.dtype != np.float32 or size < 2 or size & (size - 1):
    raise UserError(f"{file} is no classifier of quality: train one")
  if version != _VERSION:
    raise UserError(f"{file} is a classifier of version {version}, and {_VERSION} is read: train it again")
  return Model(weights, bias)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Quality:
  """Keeps what a trained classifier takes for good, and notes its probability in the field "quality".

  As GPT-3's classifier of crawled pages does (Brown et al. 2020, arXiv:2005.14165, appendix A), with a fixed bound.

  Attributes:
    model: the .npz file that `train` wrote, or its directory.
    least: probability of a document that is kept; 0 keeps all, and only notes.
  """

  model: str
  least: float = 0.5

  def __post_init__(self):
    require(self, "a file or a directory", lambda value: isinstance(value, str) and value, "model")
    require(self, "between 0 and 1", lambda value: 0 <= value <= 1, "least")

  def files_read(self) -> list[pathlib.Path]:
    return [_file(self.model)]

  def __call__(self, document: Document) -> Document | Dropped:
    quality = load(self.model).probability(document.text)
    if quality < self.least:
      return Dropped("quality", quality)
    return document.with_text(document.text, quality=quality)
