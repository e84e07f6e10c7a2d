"""Training a SentencePiece model on the text of a task."""

from collections.abc import Iterable
import hashlib
import io
import os
import pathlib
import sys

import sentencepiece
import seqio

from gpt4x import storage
from gpt4x.data import data_dir, make_folder
from gpt4x.data.task_examples import examples
from gpt4x.data.vocabularies.sentence_pieces import model_path
from gpt4x.errors import nearest, UserError

MAX_CHARACTERS = 200_000_000  # Enough text for any vocabulary; training holds it in memory.
CHUNK = 4096  # Characters in a "sentence" of SentencePiece: longer than a line, so that pieces may hold line ends.


def train_sentencepiece(texts: Iterable[str], size: int, path: str | os.PathLike) -> None:
  """Trains a lossless byte-pair model of `size` pieces (0 padding, 1 end, 2 unknown, then 256 bytes) into `path`."""
  path = storage.path(path)
  _check_output(path)
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
  try:
    storage.make_directory(path.parent)
    earlier = storage.read(path)
    storage.write(path, model.getvalue())
  except OSError as error:
    raise UserError(f"cannot write {path} ({error.strerror}): name another file for the vocabulary") from error
  if earlier is not None and earlier != model.getvalue():
    name = lambda content: hashlib.sha256(content).hexdigest()[:12]
    print(f"{path} had another vocabulary ({name(earlier)}, now {name(model.getvalue())}): runs keep their own copy,"
          " new runs of the tasks that name it take the new one", file=sys.stderr)


def _check_output(path: pathlib.Path) -> None:
  """Raises UserError, before minutes of training, for a path that no file can be written to."""
  if storage.is_remote(path):
    storage.check_writable(path)
    return
  folder = next((folder for folder in path.parents if folder.exists()), path.parent)
  if path.exists() and not path.is_file():
    raise UserError(f"cannot write a vocabulary to {path}, which is {'a folder' if path.is_dir() else 'no file'}: name"
                    " a .model file")
  if not folder.is_dir() or not os.access(folder, os.W_OK):
    raise UserError(f"cannot write a vocabulary to {path}: {folder} is not a folder that can be written; name another")


def train_from_task(task_name: str, size: int, path: str | os.PathLike) -> pathlib.Path:
  """Trains a SentencePiece model on a task's training text; returns the file, `model_path(path)`."""
  if os.fspath(path) in ("", ".", ".."):
    raise UserError(f"a vocabulary cannot have the name {os.fspath(path)!r}: give a name or the path of a .model file")
  path = model_path(path)
  try:
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task_name))
  except ValueError as error:
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    raise UserError(f"unknown task or mixture {task_name!r}{nearest(task_name, known)}") from error
  texts = (feature.vocabulary.decode(example[name].tolist())
           for task in subtasks
           for example in examples(task, "train", sequence_length=None, shuffle=True, seed=0)
           for name, feature in task.output_features.items())
  if data_dir() in path.parents:
    make_folder(path.parent)
  train_sentencepiece(texts, size, path)
  return path
