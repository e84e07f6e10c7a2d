"""How a vocabulary is kept with a model, and known again: `vocabulary.json` and one file beside it.

A class of one's own is kept as well if it is registered and has two methods: `to_bytes(self)`, all that is needed to
encode alike on another machine, and the class method `from_bytes(content)`.
"""

import hashlib
import json
import os
import pathlib
from typing import Any, TypeVar

import seqio

from gpt4x import run_directory, storage
from gpt4x.data.vocabularies.files import FileVocabulary
from gpt4x.data.vocabularies.hugging_face import HuggingFaceVocabulary
from gpt4x.data.vocabularies.sentence_pieces import HeldSentencePieceVocabulary, LosslessSentencePieceVocabulary
from gpt4x.data.vocabularies.words import WordVocabulary
from gpt4x.errors import nearest, UserError

MAX_EXTRA_IDS = 1 << 24

_BYTES = "ByteVocabulary"
_SHIPPED: dict[str, Any] = {
    "SentencePieceVocabulary": HeldSentencePieceVocabulary, **{one.__name__: one for one in (
        LosslessSentencePieceVocabulary, WordVocabulary, HuggingFaceVocabulary)}}
_NAMES = {cls: name for name, cls in _SHIPPED.items()} | {
    seqio.ByteVocabulary: _BYTES, seqio.SentencePieceVocabulary: "SentencePieceVocabulary"}
_OWN: dict[str, type] = {}  # Classes of users, by name; a class defined again in a notebook takes the place of itself.
_REGISTERED: set[type] = set()

Class = TypeVar("Class", bound=type)


def register(cls: Class) -> Class:
  """Lets vocabularies of a class of one's own be kept with models; see this file's docstring. A decorator.

  A model directory can only name such a class, and is read where the user's own code has registered it.
  """
  name = cls.__name__
  if not issubclass(cls, seqio.Vocabulary) or not all(
      callable(getattr(cls, method, None)) for method in ("to_bytes", "from_bytes")):
    raise UserError(f"the class {name} cannot be registered: make it a seqio.Vocabulary with the methods to_bytes and"
                    " from_bytes")
  earlier = "gpt4x" if name in (*_SHIPPED, _BYTES) else getattr(_OWN.get(name), "__module__", cls.__module__)
  if earlier != cls.__module__ and "__main__" not in (earlier, cls.__module__):  # A script may import itself by name.
    raise UserError(f"there is a vocabulary class {name} already, in {earlier}: give the new one another name")
  _OWN[name] = cls
  _REGISTERED.add(cls)
  return cls


def class_name(vocabulary: seqio.Vocabulary) -> str:
  """The class as it is saved."""
  return _NAMES.get(type(vocabulary), type(vocabulary).__name__)


def spec(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
  """Returns what identifies a vocabulary, as JSON: equal specs encode alike. A UserError if it cannot be saved."""
  return _saved(vocabulary)[0]


def _saved(vocabulary: seqio.Vocabulary) -> tuple[dict[str, Any], str, bytes]:
  """(spec, name of the file, content of the file) of a vocabulary; those of bytes have no file."""
  cls = type(vocabulary)
  if cls is seqio.ByteVocabulary:
    return {"class": _BYTES, "extra_ids": vocabulary.extra_ids}, "", b""
  if cls not in _NAMES and cls not in _REGISTERED:
    raise UserError(f"a {cls.__name__} cannot be saved with a model: use one of {', '.join((_BYTES, *_SHIPPED))}, or"
                    " give the class to_bytes, from_bytes and @vocabularies.register (docs/vocabularies.md)")
  content = vocabulary.sp_model if cls is seqio.SentencePieceVocabulary else vocabulary.to_bytes()
  if not isinstance(content, bytes):
    raise UserError(f"{cls.__name__}.to_bytes gives a {type(content).__name__}: let it give bytes")
  return ({"class": class_name(vocabulary), **getattr(vocabulary, "arguments", {}),
           "sha256": hashlib.sha256(content).hexdigest()}, _file_of(cls), content)


def _file_of(cls: Any) -> str:
  return getattr(_SHIPPED.get(_NAMES.get(cls, "")), "saved_as", run_directory.OWN_VOCABULARY)


def describe(vocabulary: seqio.Vocabulary) -> str:
  """A vocabulary in words, for messages: its class, its file if it has one, and what it is known by."""
  file = getattr(vocabulary, "file", None) or getattr(vocabulary, "sentencepiece_model_file", None) or ""
  return _describe(spec(vocabulary), file)


def _describe(known: dict[str, Any], file: str) -> str:
  parts = [f"{name} {value[:12] if name == 'sha256' else value}" for name, value in known.items() if name != "class"]
  return f"{known['class']}{f' {file}' if file else ''} ({', '.join(parts)})"


def saved_files(vocabulary: seqio.Vocabulary) -> dict[str, bytes]:
  """What `save` writes, by the names of the files; `vocabulary.json` is last."""
  known, file, content = _saved(vocabulary)
  return ({file: content} if file else {}) | {run_directory.VOCABULARY: (json.dumps(known, indent=2) + "\n").encode()}


def save(vocabulary: seqio.Vocabulary, directory: str | os.PathLike) -> None:
  """Writes into `directory` all that `load` needs, so that a model's text can be read wherever the model is moved."""
  directory, content = storage.path(directory), saved_files(vocabulary)
  storage.make_directory(directory)
  for name in content:
    storage.write(directory / name, content[name])


def saved_in(directory: str | os.PathLike) -> bool:
  """Whether `save` has written here."""
  names = {run_directory.VOCABULARY, run_directory.OWN_VOCABULARY, *(cls.saved_as for cls in _SHIPPED.values())}
  with storage.errors(directory):
    return any((storage.path(directory) / name).exists() for name in names)


def load(directory: str | os.PathLike) -> seqio.Vocabulary:
  """Returns the vocabulary that `save` wrote; it holds its content, whatever becomes of the directory."""
  directory = storage.path(directory)
  known = spec_in(directory)
  name = known.pop("class")
  if name == _BYTES:
    return seqio.ByteVocabulary(known["extra_ids"])
  cls: Any = _SHIPPED.get(name) or _OWN.get(name)
  if cls is None:
    raise UserError(f"the vocabulary of {directory} is of the class {name}, which nothing here has registered: import"
                    f" the module that defines it, or correct {run_directory.VOCABULARY}{nearest(name, _OWN)}")
  path = directory / _file_of(cls)
  try:
    content = storage.read_bytes(path)
  except OSError as error:
    raise _damaged(directory, f"{path.name}: {error.strerror or error}") from error
  if hashlib.sha256(content).hexdigest() != known.pop("sha256"):
    raise _damaged(directory, f"{path.name} is damaged")
  if not issubclass(cls, FileVocabulary):
    return cls.from_bytes(content)
  try:
    return cls.from_bytes(content, str(path), **known)
  except TypeError as error:
    raise _damaged(directory, f"{run_directory.VOCABULARY}: {error}") from error


# What stands in vocabulary.json beside the class and the hash, and how it is to be.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    _BYTES: {"extra_ids": lambda value: type(value) is int and 0 <= value <= MAX_EXTRA_IDS},
    "HuggingFaceVocabulary": {"eos": lambda value: value is None or isinstance(value, str)}}


def spec_in(directory: str | os.PathLike) -> dict[str, Any]:
  """The spec of the vocabulary that `save` wrote; neither its class nor its file is needed."""
  directory = storage.path(directory)
  try:
    known = json.loads(storage.read_bytes(directory / run_directory.VOCABULARY).decode("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(directory, f"{run_directory.VOCABULARY}: {getattr(error, 'strerror', None) or error}") from error
  name = known.get("class") if isinstance(known, dict) else None
  if not isinstance(name, str):
    raise _damaged(directory, f"{run_directory.VOCABULARY} names no class")
  fits = _ARGUMENTS.get(name, {}) | ({} if name == _BYTES else {"sha256": lambda value: isinstance(value, str)})
  if "bos" in known and name == "HuggingFaceVocabulary":
    fits["bos"] = lambda value: isinstance(value, str)
  for argument, fit in fits.items():
    if argument not in known or not fit(known[argument]):
      shown = repr(known.get(argument))[:40] if argument in known else "missing"
      raise _damaged(directory, f"{run_directory.VOCABULARY}: {argument} is {shown}")
  return known


def _damaged(directory: pathlib.Path, reason: str) -> UserError:
  reason = " ".join(reason.split())
  return UserError(f"cannot load a vocabulary from {directory} ({reason}); copy {run_directory.VOCABULARY} and the file"
                   " beside it there again")


def check_alike(vocabulary: seqio.Vocabulary, where: str, directory: str | os.PathLike,
                otherwise: str = "start from another model") -> None:
  """Raises UserError if the model of a directory has neither this vocabulary, that of `where`, nor its text alone.

  The pieces have to be the same ones; nothing is known of a model without a vocabulary. `otherwise` is the remedy
  beside another task.
  """
  if not saved_in(directory) or extends(vocabulary, directory):
    return
  theirs = spec_in(directory)
  if not _same_pieces(spec(vocabulary), theirs):
    file = "" if theirs["class"] == _BYTES else str(storage.path(directory) / _file_of(_SHIPPED.get(theirs["class"])))
    raise UserError(f"{where} has the vocabulary {describe(vocabulary)}, but the model in {directory} was trained with"
                    f" {_describe(theirs, file)}: name a task with that one, or {otherwise}")


def extends(vocabulary: seqio.Vocabulary, directory: str | os.PathLike) -> int | None:
  """How many ids the model of a directory knows of a vocabulary whose first ids, its `text`, are that model's; or None.

  Without a vocabulary there, nothing is known.
  """
  text = getattr(vocabulary, "text", None)
  if not isinstance(text, seqio.Vocabulary) or not saved_in(directory):
    return None
  return text.vocab_size if _same_pieces(spec(text), spec_in(directory)) else None


def _same_pieces(one: dict[str, Any], other: dict[str, Any]) -> bool:
  return one.get("sha256", one) == other.get("sha256", other)
