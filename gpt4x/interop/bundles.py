"""A model as a folder that decodes without this project: its file, config.json, the vocabulary, and run.py.

`decoding_graph` says what the model's function takes and gives. config.json has what run.py has to know: window,
vocabulary, special ids, the shapes of the cache, and the size and CRC-32 of every file of the model.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import tempfile
from typing import Any, TYPE_CHECKING
import zlib

from gpt4x import storage
from gpt4x.data import vocabularies
from gpt4x.errors import one_line, UserError
from gpt4x.interop import decoding_inputs, decoding_weights
from gpt4x.models.language_model import LanguageModel

if TYPE_CHECKING:
  import seqio

FORMATS = {"onnx": "onnx_files", "stablehlo": "stablehlo_files", "tflite": "tflite_files"}
_CONFIG = "config.json"
CHUNK = 64  # Tokens of a prompt at a time.
_READ_BY_RUNNER = {"ByteVocabulary", "SentencePieceVocabulary", "LosslessSentencePieceVocabulary", "WordVocabulary",
                   "HuggingFaceVocabulary"}
_RUNNER = pathlib.Path(__file__).with_name("runner")


@dataclasses.dataclass(frozen=True)
class Decoder:
  """What is exported: a model's weights, and how it is to be continued."""

  language_model: LanguageModel
  weights: dict[str, decoding_weights.Weight]
  window: int

  @classmethod
  def of(cls, language_model: LanguageModel, params: Any, window: int) -> "Decoder":
    weights = decoding_weights.make(language_model.config, decoding_weights.named(params), window)
    return cls(language_model, weights, window)

  @property
  def chunk(self) -> int:
    return min(CHUNK, self.window)


def check(vocabulary: "seqio.Vocabulary") -> None:
  """Raises UserError for a vocabulary that run.py could not read."""
  name = vocabularies.spec(vocabulary)["class"]
  if name not in _READ_BY_RUNNER:
    raise UserError(f"run.py of an exported model cannot read a vocabulary of the class {name}: export as safetensors,"
                    f" or a model with one of {', '.join(sorted(_READ_BY_RUNNER))}")


def check_free(directory: str | os.PathLike, kind: str) -> None:
  """Raises UserError if a bundle of this format cannot be written, or would take the place of something."""
  files = _format(kind)
  for name in (_CONFIG, *files.NAMES):
    if (path := storage.path(directory) / name).exists():
      raise UserError(f"{path} is there already: choose another directory, or remove it")


def _format(kind: str) -> Any:
  try:
    return importlib.import_module(f"gpt4x.interop.{FORMATS[kind]}")
  except ImportError as error:
    raise UserError(f"--format={kind} needs a package that is not installed ({one_line(error)}): pip install"
                    " 'gpt4x[export]'") from error


def save(directory: str | os.PathLike, kind: str, decoder: Decoder, vocabulary: "seqio.Vocabulary") -> None:
  """Writes the bundle of a format into a directory without one; config.json comes last."""
  target = storage.path(directory)
  check(vocabulary)
  check_free(target, kind)
  storage.make_directory(target)
  remote = storage.is_remote(target)
  with tempfile.TemporaryDirectory(dir=None if remote else target) as folder:
    made = pathlib.Path(folder)
    config = decoder.language_model.config
    names = _format(kind).save(made, config, decoder.weights, decoder.window, decoder.chunk)
    content = {
        "format": f"gpt4x-{kind}", "version": 1, "files": {name: _fingerprint(made / name) for name in names},
        "window": decoder.window, "chunk": decoder.chunk, "vocab_size": config.vocab_size,
        "bos_id": vocabularies.start_id(vocabulary), "eos_id": vocabulary.eos_id,
        "first_id": vocabularies.first_text_id(vocabulary), "end_id": min(vocabulary.vocab_size, config.vocab_size),
        "cache": {name: shape for name, (_, shape) in decoding_inputs.input_shapes(config, decoder.window, 1, 1).items()
                  if name.startswith(("cache", "keys", "values"))}}
    (made / "run.py").write_bytes((_RUNNER / "run.py").read_bytes())
    (made / "decoder.py").write_bytes((_RUNNER / f"decoder_{kind}.py").read_bytes())
    for name in (*names, "run.py", "decoder.py"):
      if remote:
        storage.upload(made / name, target / name)
      else:
        (made / name).replace(target / name)
  vocabularies.save(vocabulary, target)
  storage.write(target / _CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def _fingerprint(path: pathlib.Path) -> tuple[int, int]:
  with open(path, "rb") as file:
    checksum = 0
    while part := file.read(1 << 24):
      checksum = zlib.crc32(part, checksum)
  return path.stat().st_size, checksum
