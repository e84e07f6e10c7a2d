"""Vocabularies: SentencePiece models trained from tasks, vocabularies saved with models, and bytes behind tokens."""

import hashlib
import io
import json
import os
import pathlib
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from gpt4x.data import directories
from gpt4x.errors import nearest, UserError

SPACE = "\u2581"  # Stands for a space inside SentencePiece's pieces.
MAX_CHARACTERS = 200_000_000  # Text enough for any vocabulary; training holds it in memory.
CHUNK = 4096  # Characters in what SentencePiece calls a sentence, so that pieces with line ends inside are learnt too.
SPEC_FILE = "vocabulary.json"
MODEL_FILE = "sentencepiece.model"


def model_path(name: str | os.PathLike) -> pathlib.Path:
  """Returns the file of a SentencePiece model: a bare name is looked for in `$GPT4X_DATA_DIR/vocabularies`."""
  path = pathlib.Path(name).expanduser()
  if path.suffix == ".model" or len(path.parts) > 1:
    return path
  return directories.data_dir() / "vocabularies" / f"{name}.model"


class LosslessSentencePieceVocabulary(seqio.SentencePieceVocabulary):
  """A SentencePiece model from `train_sentencepiece`, found at first use.

  SentencePiece takes a U+2581 in the text for a space. Here it becomes its three bytes, so that every text survives.
  """

  def __init__(self, name: str | os.PathLike, task: str = "TASK"):
    """Takes a name or path as in `model_path`, and the task whose text the model is to be trained on."""
    super().__init__(os.fspath(name))
    self._task = task

  # The base class keeps a path here; resolving it late lets tasks be registered before the data directory is known.
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


SENTENCEPIECE_CLASSES = {cls.__name__: cls for cls in (seqio.SentencePieceVocabulary, LosslessSentencePieceVocabulary)}


def train_sentencepiece(texts: Iterable[str], size: int, path: str | os.PathLike) -> None:
  """Trains a lossless byte-pair model of `size` pieces (0 padding, 1 end, 2 unknown, then 256 bytes) into `path`."""
  chunks, characters = [], 0
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
    reason = " ".join(str(error).rpartition("] ")[2].split())  # After the place in the C++ source and the condition.
    raise UserError(f"cannot train a vocabulary of {size} pieces on {characters} characters: {reason}") from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  directories.write(path, model.getvalue())


def train_from_task(task_name: str, size: int, path: str | os.PathLike) -> pathlib.Path:
  """Trains a SentencePiece model on a task's training text; returns the file, which `model_path` gives for `path`."""
  path = model_path(path)
  train_sentencepiece(_texts(task_name), size, path)
  return path


def _texts(task_name: str) -> Iterator[str]:
  import tasks  # Registers them; here, because they use this module.  pylint: disable=g-import-not-at-top,unused-import
  try:
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task_name))
  except ValueError as error:
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    raise UserError(f"unknown task or mixture {task_name!r}{nearest(task_name, known)}") from error
  for task in subtasks:
    for example in task.get_dataset(sequence_length=None, split="train", shuffle=True, seed=0).as_numpy_iterator():
      for name, feature in task.output_features.items():
        yield feature.vocabulary.decode(example[name].tolist())


def token_bytes(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns the bytes of text behind each id, [V]: 0 for specials, and for all ids where they stand for no text."""
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


def spec(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
  """Returns what identifies a vocabulary, as JSON: equal specs encode alike."""
  kind = type(vocabulary).__name__
  if kind == "ByteVocabulary":
    return {"class": kind, "extra_ids": vocabulary.extra_ids}
  if kind in SENTENCEPIECE_CLASSES:  # The model has the extra ids inside.
    return {"class": kind, "sha256": hashlib.sha256(vocabulary.sp_model).hexdigest()}
  raise UserError(f"a {kind} cannot be saved with a model; use ByteVocabulary or SentencePieceVocabulary")


def save(vocabulary: seqio.Vocabulary, directory: str | os.PathLike) -> None:
  """Writes into `directory` all that `load` needs, so that a model's text can be read wherever the model goes."""
  directory, saved = pathlib.Path(directory), spec(vocabulary)
  directory.mkdir(parents=True, exist_ok=True)
  if "sha256" in saved:
    directories.write(directory / MODEL_FILE, vocabulary.sp_model)
  directories.write(directory / SPEC_FILE, (json.dumps(saved, indent=2) + "\n").encode())


def load(directory: str | os.PathLike) -> seqio.Vocabulary:
  """Returns the vocabulary that `save` wrote into `directory`."""
  directory = pathlib.Path(directory)
  try:
    saved = json.loads((directory / SPEC_FILE).read_text())
    if saved["class"] == "ByteVocabulary":
      return seqio.ByteVocabulary(saved["extra_ids"])
    vocabulary = SENTENCEPIECE_CLASSES[saved["class"]](str(directory / MODEL_FILE))
    if hashlib.sha256((directory / MODEL_FILE).read_bytes()).hexdigest() == saved["sha256"]:
      return vocabulary
    reason = f"{MODEL_FILE} is damaged"
  except (OSError, ValueError, LookupError, TypeError) as error:
    reason = str(error) or type(error).__name__
  raise UserError(f"cannot load a vocabulary from {directory} ({reason}); copy {SPEC_FILE} and {MODEL_FILE} there again")
