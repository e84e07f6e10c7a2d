"""What lies beside the weights of a model of Hugging Face: its tokenizer, and how that writes a conversation.

A model directory keeps the tokenizer as its vocabulary, the template as `chat_template.jinja`, and in a folder the
files that say more; so all of it can be written back.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio

from gpt4x import run_directory, storage
from gpt4x.data import vocabularies
from gpt4x.data.vocabularies import HuggingFaceVocabulary
from gpt4x.errors import one_line, UserError
from gpt4x.interop import json_files

_CONFIG, _TOKENIZER_CONFIG, _SPECIAL = "config.json", "tokenizer_config.json", "special_tokens_map.json"
_WRITTEN_BACK = _TOKENIZER_CONFIG, _SPECIAL, "generation_config.json"
_IDS = "bos_token_id", "eos_token_id", "pad_token_id"


def vocabulary(directory: pathlib.Path) -> seqio.Vocabulary | None:
  """The vocabulary of a directory, with the tokens that end and begin a document; None if it has no tokenizer.json.

  Where none is said to begin one, the token that ends the document before does.
  """
  if (directory / run_directory.VOCABULARY).is_file():  # Ours, which no tokenizer.json can say.
    return vocabularies.load(directory)
  path = directory / run_directory.TOKENIZER
  if not path.is_file():
    return None
  content, where = path.read_bytes(), str(path)
  tokenizer = HuggingFaceVocabulary.from_bytes(content, where)
  eos = _token(directory, "eos", tokenizer)
  return HuggingFaceVocabulary.from_bytes(content, where, eos=eos, bos=_token(directory, "bos", tokenizer) or eos)


def _token(directory: pathlib.Path, name: str, tokenizer: HuggingFaceVocabulary) -> str | None:
  """A special token by what the tokenizer's own files say, or else by its id in config.json."""
  for path in (directory / _TOKENIZER_CONFIG, directory / _SPECIAL):
    if path.is_file() and (found := json_files.read(path).get(f"{name}_token")) is not None:
      text = found.get("content") if isinstance(found, dict) else found
      if not isinstance(text, str):
        raise UserError(f"{path}: {name}_token = {one_line(repr(found))} must be text: correct it")
      return text
  found = json_files.read(directory / _CONFIG).get(f"{name}_token_id")
  first = found[0] if isinstance(found, list) and found else found
  return tokenizer.token(first) if isinstance(first, int) and 0 <= first < tokenizer.vocab_size else None


def kept(directory: pathlib.Path) -> dict[str, bytes]:
  """What a model directory keeps of a directory beside weights and vocabulary, by the names that it has there."""
  found = {f"{run_directory.HUGGING_FACE}/{name}": (directory / name).read_bytes()
           for name in (_CONFIG, *_WRITTEN_BACK) if (directory / name).is_file()}
  template = directory / run_directory.CHAT_TEMPLATE
  if template.is_file():
    return found | {run_directory.CHAT_TEMPLATE: template.read_bytes()}
  path = directory / _TOKENIZER_CONFIG
  text = json_files.read(path).get("chat_template") if path.is_file() else None
  if isinstance(text, list):  # Of several, by their names.
    text = next((one.get("template") for one in text if isinstance(one, dict) and one.get("name") == "default"), None)
  return found | ({run_directory.CHAT_TEMPLATE: text.encode()} if isinstance(text, str) else {})


def copied(model_dir: str | os.PathLike) -> dict[str, bytes]:
  """What another model directory keeps, for one that is made of it."""
  names = run_directory.CHAT_TEMPLATE, *(f"{run_directory.HUGGING_FACE}/{name}" for name in (_CONFIG, *_WRITTEN_BACK))
  return {name: content for name in names if (content := storage.read(storage.path(model_dir) / name)) is not None}


@dataclasses.dataclass(frozen=True)
class Found:
  """What a model directory has for an export."""

  vocabulary: seqio.Vocabulary | None
  fields: dict[str, Any]  # Of config.json: the ids of special tokens, and what the model was trained for.
  files: dict[str, bytes]  # Those of transformers, by their names there.

  def write(self, directory: str | os.PathLike) -> None:
    """Writes the tokenizer, as transformers reads it; another vocabulary as a model directory has it."""
    for name, content in self.files.items():
      storage.write(storage.path(directory) / name, content)
    if self.vocabulary is not None and not isinstance(self.vocabulary, HuggingFaceVocabulary):
      vocabularies.save(self.vocabulary, directory)


def found(model_dir: str | os.PathLike) -> Found:
  """What a model directory has of the files of transformers; what it has not is made of its vocabulary."""
  directory = storage.path(model_dir)
  own = vocabularies.load(directory) if (directory / run_directory.VOCABULARY).exists() else None
  folder = directory / run_directory.HUGGING_FACE
  read = {name: content for name in _WRITTEN_BACK if (content := storage.read(folder / name)) is not None}
  fields = {}
  if (content := storage.read(folder / _CONFIG)) is not None:
    try:
      config = json.loads(content)
      fields = {name: config[name] for name in (*_IDS, "max_position_embeddings") if name in config}
    except (ValueError, TypeError, RecursionError) as error:
      raise UserError(f"{folder / _CONFIG} is not a whole JSON file ({one_line(error)}): copy it again") from error
  elif own is not None:
    ids = {"bos_token_id": vocabularies.start_id(own), "eos_token_id": own.eos_id, "pad_token_id": own.pad_id}
    fields = {name: value for name, value in ids.items() if value is not None}
  if isinstance(own, HuggingFaceVocabulary):
    read[run_directory.TOKENIZER] = own.to_bytes()
    if _TOKENIZER_CONFIG not in read:
      tokens = {f"{name}_token": token for name, token in own.arguments.items() if token is not None}
      described = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
      read[_TOKENIZER_CONFIG] = (json.dumps(described, indent=2) + "\n").encode()
  if (template := storage.read(directory / run_directory.CHAT_TEMPLATE)) is not None:
    read[run_directory.CHAT_TEMPLATE] = template
  return Found(own, fields, read)
