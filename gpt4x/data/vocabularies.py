"""Vocabularies: how they are trained, encode text, and are saved with a model."""

from collections.abc import Iterable, Sequence
import functools
import hashlib
import io
import json
import os
import pathlib
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from gpt4x import run_directory
from gpt4x.data import data_dir
from gpt4x.data.local_text import LocalText
from gpt4x.errors import nearest, UserError

SPACE = "\u2581"  # SentencePiece's sign for a space.
MAX_CHARACTERS = 200_000_000  # Enough text for any vocabulary; training holds it in memory.
CHUNK = 4096  # Characters in a "sentence" of SentencePiece: longer than a line, so that pieces may hold line ends.


def model_path(name: str | os.PathLike) -> pathlib.Path:
  """Returns the file of a SentencePiece model; a bare name stands for a file in `$GPT4X_DATA_DIR/vocabularies`."""
  path = pathlib.Path(name).expanduser()
  if path.suffix == ".model" or len(path.parts) > 1:
    return path
  return data_dir() / "vocabularies" / f"{name}.model"


class LosslessSentencePieceVocabulary(seqio.SentencePieceVocabulary):
  """A SentencePiece model from `train_sentencepiece`, found at first use.

  SentencePiece takes a U+2581 in the text for a space. Here it is encoded as three bytes, so that every text survives.
  """

  def __init__(self, name: str | os.PathLike, task: str = "TASK"):
    """Takes a name or path as in `model_path`, and the task whose text the model is to be trained on."""
    super().__init__(os.fspath(name))
    self._task = task

  # The base class assigns a path. Finding it late lets tasks be registered before the data directory is known.
  @property
  def _sentencepiece_model_file(self) -> str:
    return str(model_path(self._name))

  @_sentencepiece_model_file.setter
  def _sentencepiece_model_file(self, name: str) -> None:
    self._name = name

  def _model_context(self) -> Any:
    if not self._model and not os.path.exists(self._sentencepiece_model_file):
      raise UserError(f"no vocabulary at {self._sentencepiece_model_file}; make it with: "
                      f"gpt4x vocabulary --task={self._task} --size=4096 --output={self._name}")
    return super()._model_context()

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


def train_sentencepiece(texts: Iterable[str], size: int, path: str | os.PathLike) -> None:
  """Trains a lossless byte-pair model of `size` pieces (0 padding, 1 end, 2 unknown, then 256 bytes) into `path`."""
  chunks, characters = list[str](), 0
  for text in texts:
    chunks.extend(text[i:i + CHUNK] for i in range(0, len(text), CHUNK))
    characters += len(text)
    if characters > MAX_CHARACTERS:
      break
  if not chunks:
    raise UserError("no text to train a vocabulary on; the corpus is empty")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(chunks), model_writer=model, model_type="bpe", vocab_size=size,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True, max_sentence_length=4 * CHUNK,
        pad_id=seqio.PAD_ID, eos_id=1, unk_id=2, bos_id=-1, minloglevel=3)
  except RuntimeError as error:
    reason = " ".join(str(error).rpartition("] ")[2].split())  # Behind the place in the C++ source and the condition.
    raise UserError(f"cannot train a vocabulary of {size} pieces on {characters} characters: {reason}") from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  run_directory.write(path, model.getvalue())


def train_from_task(task_name: str, size: int, path: str | os.PathLike) -> pathlib.Path:
  """Trains a SentencePiece model on a task's training text; returns the file, `model_path(path)`."""
  path = model_path(path)
  try:
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task_name))
  except ValueError as error:
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    raise UserError(f"unknown task or mixture {task_name!r}{nearest(task_name, known)}") from error
  texts = (feature.vocabulary.decode(example[name].tolist())
           for task in subtasks
           for example in task.get_dataset(None, "train", shuffle=True, seed=0).as_numpy_iterator()
           for name, feature in task.output_features.items())
  train_sentencepiece(texts, size, path)
  return path


class WordVocabulary(seqio.Vocabulary):
  """Words with blanks between them, and `<eos>` at the end of each line; an unknown word is `<unk>`.

  Tokenised corpora, such as WikiText-103, have blanks around their commas. The file has a word on each line, in the
  order of ids. Id 0 may be any word, so no id is padding, and no id ends a text.
  """

  def __init__(self, path: str | os.PathLike | None = None):
    """Takes the file; None means the file that gin gives to `LocalText.words` at the time of reading."""
    super().__init__()
    self._path = path and os.fspath(path)

  @property
  def words_file(self) -> str:
    if path := self._path or LocalText().words:
      return os.path.expanduser(path)
    raise UserError("LocalText.words is not set; name the file of words, for instance"
                    " --gin.LocalText.words=\"'runs/mine/words.txt'\"")

  @property
  def words(self) -> list[str]:
    return self._read()[0]

  def _read(self) -> tuple[list[str], dict[str, int]]:
    path = self.words_file
    try:
      stat = os.stat(path)
      return _read_words(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"no words at {path} ({error}): set LocalText.words to a file of UTF-8 with a word on each line,"
                      " such as words.txt in a model directory") from error

  @property
  def _base_vocab_size(self) -> int:
    return len(self.words)

  pad_id = None
  eos_id = None

  @property
  def unk_id(self) -> int | None:
    ids = self._read()[1]
    return ids.get("<unk>", ids.get("<UNK>"))

  def _encode(self, s: str) -> Sequence[int]:
    ids, unknown, encoded = self._read()[1], self.unk_id, list[Any]()
    line_end = [ids["<eos>"]] if "<eos>" in ids else []
    for number, line in enumerate(s.split("\n")):  # Line by line: a list of all words takes ten times the file's size.
      encoded += line_end * (number > 0) + [ids.get(word, unknown) for word in line.split()]
    if unknown is None and None in encoded:
      word = next(word for word in s.split() if word not in ids)
      raise UserError(f"the word {word!r} is not in {self.words_file}, which has no <unk>: take it out of the text")
    return encoded

  def _decode(self, ids: Iterable[int]) -> str:
    lines: list[list[str]] = [[]]
    for word in map(self.words.__getitem__, ids):
      if word == "<eos>":
        lines.append([])
      else:
        lines[-1].append(word)
    return "\n".join(map(" ".join, lines))

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    encode = tf.autograph.experimental.do_not_convert(
        lambda text: tf.constant(self._encode(text.numpy().decode()), tf.int32))
    return tf.ensure_shape(tf.py_function(encode, [s], tf.int32), [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(lambda ids: self._decode(ids.numpy().tolist()), [ids], tf.string), [])

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, WordVocabulary) and self._path == other._path


@functools.lru_cache(maxsize=4)
def _read_words(path: str, size: int, mtime: int) -> tuple[list[str], dict[str, int]]:
  """The words of a file and their ids, kept until the file's size or time changes."""
  words = pathlib.Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
  return words, _word_ids(words, path)


def _word_ids(words: Sequence[str], where: str | os.PathLike) -> dict[str, int]:
  """The id of each word; a UserError for a word that no line could be split into."""
  ids: dict[str, int] = {}
  for i, word in enumerate(words):
    if not isinstance(word, str) or word.split() != [word] or word in ids:
      raise UserError(f"{where}: word {i}, {word!r}, is empty, has a blank inside or was there before: correct it")
    ids[word] = i
  return ids


def write_words(words: Sequence[str], directory: str | os.PathLike) -> WordVocabulary:
  """Writes the words of a model into its directory; returns the vocabulary."""
  path = pathlib.Path(directory) / run_directory.WORDS
  _word_ids(words, path)
  path.parent.mkdir(parents=True, exist_ok=True)
  run_directory.write(path, "".join(f"{word}\n" for word in words).encode())
  return WordVocabulary(path)


def token_bytes(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns the bytes of text behind each id, [V]: 0 for specials, and for all words, since `<unk>` may be any text."""
  sizes = np.zeros(vocabulary.vocab_size, np.int32)
  if isinstance(vocabulary, seqio.ByteVocabulary):
    sizes[3:3 + 256] = 1
  elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
    model = vocabulary.tokenizer
    for i in range(vocabulary.vocab_size):
      piece = model.IdToPiece(i)
      special = model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i) or piece.startswith(f"{SPACE}<extra_id_")
      sizes[i] = 0 if special else 1 if model.IsByte(i) else len(piece.replace(SPACE, " ").encode())
  return sizes


# The vocabularies that have a file, by name: the class, and the file's name in a model directory.
_WITH_FILES: dict[str, tuple[Any, str]] = {
    "SentencePieceVocabulary": (seqio.SentencePieceVocabulary, run_directory.SENTENCEPIECE),
    "LosslessSentencePieceVocabulary": (LosslessSentencePieceVocabulary, run_directory.SENTENCEPIECE),
    "WordVocabulary": (WordVocabulary, run_directory.WORDS)}


def spec(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
  """Returns what identifies a vocabulary, as JSON: equal specs encode alike."""
  kind = type(vocabulary).__name__
  if kind == "ByteVocabulary":
    return {"class": kind, "extra_ids": vocabulary.extra_ids}
  if kind in _WITH_FILES:  # A SentencePiece model has the extra ids inside.
    return {"class": kind, "sha256": hashlib.sha256(_content(vocabulary)).hexdigest()}
  raise UserError(f"a {kind} cannot be saved with a model; use ByteVocabulary or one of {', '.join(_WITH_FILES)}")


def _content(vocabulary: seqio.Vocabulary) -> bytes:
  if isinstance(vocabulary, WordVocabulary):
    return "".join(f"{word}\n" for word in vocabulary.words).encode()
  return vocabulary.sp_model


def save(vocabulary: seqio.Vocabulary, directory: str | os.PathLike) -> None:
  """Writes into `directory` all that `load` needs, so that a model's text can be read wherever the model is moved."""
  directory, saved = pathlib.Path(directory), spec(vocabulary)
  directory.mkdir(parents=True, exist_ok=True)
  if "sha256" in saved:
    run_directory.write(directory / _WITH_FILES[saved["class"]][1], _content(vocabulary))
  run_directory.write(directory / run_directory.VOCABULARY, (json.dumps(saved, indent=2) + "\n").encode())


def load(directory: str | os.PathLike) -> seqio.Vocabulary:
  """Returns the vocabulary that `save` wrote."""
  directory = pathlib.Path(directory)
  try:
    saved = json.loads((directory / run_directory.VOCABULARY).read_text())
    if saved["class"] == "ByteVocabulary":
      return seqio.ByteVocabulary(saved["extra_ids"])
    cls, file = _WITH_FILES[saved["class"]]
    if hashlib.sha256((directory / file).read_bytes()).hexdigest() == saved["sha256"]:
      return cls(str(directory / file))
    reason = f"{file} is damaged"
  except (OSError, ValueError, LookupError, TypeError) as error:
    reason = str(error) or type(error).__name__
  raise UserError(f"cannot load a vocabulary from {directory} ({reason}); copy {run_directory.VOCABULARY} and the file"
                  " beside it there again")
