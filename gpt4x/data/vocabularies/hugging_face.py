"""Tokenizers of Hugging Face as vocabularies."""

from collections.abc import Iterable, Sequence
import functools
import json
import os
from typing import Any, Self

import numpy as np

from gpt4x import run_directory, storage
from gpt4x.data.local_text import LocalText
from gpt4x.data.vocabularies.files import FileVocabulary, Missing, PythonVocabulary
from gpt4x.errors import nearest, UserError


class HuggingFaceVocabulary(PythonVocabulary, FileVocabulary):
  """A `tokenizer.json`, as the library `tokenizers` reads it.

  Special tokens come from no text: where a text spells one, it is encoded like any other text. Nothing is put around a
  text, cut off or padded, and no merge is left out at random, whatever the file says.
  """

  saved_as = run_directory.TOKENIZER

  def __init__(self, path: str | os.PathLike | None = None, eos: str | None = None, bos: str | None = None):
    """Takes the file, and the tokens that end and begin a document.

    Args:
      path: the file; None: that of the model directory which gin gives to `LocalText.tokenizer`, with its eos and bos.
      eos: the token that ends a document, such as `<|endoftext|>`; None: none does.
      bos: the token that is the input before a document's first, such as `<s>`; None: the one of id 0 is.
    """
    super().__init__()
    self._where, self._eos, self._bos = None if path is None else os.fspath(path), eos, bos

  @property
  def by_name(self) -> bool:
    return self._where is None

  @property
  def file(self) -> str:
    if self._where is not None:
      return os.path.expanduser(self._where)
    return str(storage.path(_model_directory()) / run_directory.TOKENIZER)

  def _remedy(self) -> str:
    return "set LocalText.tokenizer to a model directory with a tokenizer.json" if self.by_name else super()._remedy()

  @property
  def arguments(self) -> dict[str, Any]:
    eos, bos = _ends(_model_directory()) if self.by_name else (self._eos, self._bos)
    return {"eos": eos} | ({} if bos is None else {"bos": bos})

  def held(self, own: Self | None = None) -> Self:
    if own is not None or not self.by_name:
      return super().held(own)
    return type(self).from_bytes(self.to_bytes(), self.file, **self.arguments)

  def _check(self) -> None:
    _ = self._tokenizer, self.eos_id, self.bos_id

  @property
  def _tokenizer(self) -> Any:
    return _load(self._content(), self.file)

  @property
  def _base_vocab_size(self) -> int:
    return _vocab_size(self._content(), self.file)

  @property
  def eos_id(self) -> int | None:
    return self._id("eos", "end")

  @property
  def bos_id(self) -> int | None:  # type: ignore[override]
    return self._id("bos", "begin")

  def _id(self, argument: str, verb: str) -> int | None:
    if (token := self.arguments.get(argument)) is None:
      return None
    tokenizer = self._tokenizer
    if (found := tokenizer.token_to_id(token)) is None:
      special = [one.content for one in tokenizer.get_added_tokens_decoder().values()]
      raise UserError(f"{self.file} has no token {token!r} to {verb} a document{nearest(token, special)}")
    return found

  @property
  def unk_id(self) -> int | None:
    tokenizer = self._tokenizer
    name = getattr(tokenizer.model, "unk_token", None)
    return None if name is None else tokenizer.token_to_id(name)

  @property
  def pad_id(self) -> int | None:
    """0 if that is a special token, which no text has; else no id is padding."""
    special = self._tokenizer.get_added_tokens_decoder().get(0)
    return 0 if special is not None and special.special and 0 not in (self.eos_id, self.unk_id) else None

  @property
  def start_id(self) -> int:
    """The input before a document's first token."""
    return self.bos_id or 0

  def token(self, i: int) -> str | None:
    """The token of an id as the file writes it; None if no token has it."""
    return self._tokenizer.id_to_token(i)

  def find(self, token: str) -> int | None:
    """The id of a token as the file writes it; None if there is none."""
    return self._tokenizer.token_to_id(token)

  @property
  def special_tokens(self) -> dict[int, str]:
    """The tokens that no text has, by their ids."""
    return {i: token.content for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

  def _encode(self, s: str) -> Sequence[int]:
    return self._tokenizer.encode(s, add_special_tokens=False).ids

  def encode_special(self, text: str) -> list[int]:
    """The ids of a text whose special tokens are meant, such as a chat template's own."""
    return _load(self._content(), self.file, special=True).encode(text, add_special_tokens=False).ids

  def _decode(self, ids: Iterable[int]) -> str:
    return self._tokenizer.decode([int(i) for i in ids])

  def token_bytes(self) -> np.ndarray:
    """The bytes of text behind each id, [V], where they are known: with byte-level pairs, and no change of the text."""
    return _token_bytes(self._content(), self.file).copy()

  def token_content(self, token: int) -> bytes:
    """The text behind an id, in UTF-8: of byte-level pairs it may be a part of a character."""
    text = None if token in self.special_tokens else self.token(token)
    if text is None:
      return b""
    if token in self._tokenizer.get_added_tokens_decoder() or not set(text) <= set(_byte_of()):
      return text.encode()
    if not _joins_bytes(self._content()):
      return self._decode([token]).encode()
    return bytes(map(_byte_of().__getitem__, text))

  def __eq__(self, other: Any) -> bool:
    mine, theirs = ((vocabulary._where, vocabulary._held, vocabulary._eos, vocabulary._bos) if isinstance(
        vocabulary, HuggingFaceVocabulary) else None for vocabulary in (self, other))
    return mine == theirs


def _model_directory() -> str:
  if directory := LocalText().tokenizer:
    return os.path.expanduser(directory)
  raise UserError("LocalText.tokenizer is not set; name the model directory that has the tokenizer, for instance"
                  " --gin.LocalText.tokenizer=\"'runs/smollm'\"")


def _ends(directory: str) -> tuple[str | None, str | None]:
  """The tokens that end and begin a document, as a model directory has them."""
  path = storage.path(directory) / run_directory.VOCABULARY
  try:
    known = json.loads(storage.read_bytes(path).decode("utf-8"))
    found = known.get("eos"), known.get("bos")
    if all(token is None or isinstance(token, str) for token in found):
      return found
    reason = "eos and bos must be text"
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
  raise Missing(f"no tokens that end and begin a document in {path} ({reason}): set LocalText.tokenizer to a model"
                " directory with a tokenizer.json and its vocabulary.json")


@functools.lru_cache(maxsize=8)
def _load(content: bytes, file: str, special: bool = False) -> Any:
  """The tokenizer; `special`: it finds special tokens in a text."""
  try:
    import tokenizers
  except ImportError as error:
    raise UserError(f"{file} needs the package tokenizers ({error}): pip install 'gpt4x[huggingface]'") from error
  try:
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
  except Exception as error:  # The library's errors have no class of their own.
    raise UserError(f"{file} is no tokenizer.json ({' '.join(str(error).split())}): copy it again") from error
  tokenizer.no_truncation()
  tokenizer.no_padding()
  tokenizer.encode_special_tokens = not special
  if getattr(tokenizer.model, "dropout", None) is not None:
    tokenizer.model.dropout = None
  return tokenizer


@functools.lru_cache(maxsize=4)
def _joins_bytes(content: bytes) -> bool:
  """Whether the characters of tokens are bytes."""
  decoder = json.loads(content).get("decoder") or {}
  return any(step.get("type") == "ByteLevel" for step in decoder.get("decoders", [decoder]))


@functools.cache
def _byte_of() -> dict[str, int]:
  """The byte that each character of byte-level pairs stands for: itself where it can be seen, others from U+0100 on."""
  seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  hidden = [byte for byte in range(256) if byte not in seen]
  return {chr(byte): byte for byte in seen} | {chr(256 + number): byte for number, byte in enumerate(hidden)}


@functools.lru_cache(maxsize=4)
def _vocab_size(content: bytes, file: str) -> int:
  return 1 + max(_load(content, file).get_vocab().values(), default=-1)  # Ids may have gaps.


@functools.lru_cache(maxsize=4)
def _token_bytes(content: bytes, file: str) -> np.ndarray:
  import tokenizers
  tokenizer, config = _load(content, file), json.loads(content)
  sizes = np.zeros(_vocab_size(content, file), np.int32)
  alphabet = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # A character for each byte.
  vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder()
  if not _keeps_bytes(config) or not alphabet <= set(vocabulary):
    return sizes
  if any(not token.special and (token.lstrip or token.rstrip) for token in added.values()):
    return sizes  # Such a token takes the blanks around it, however many there are.
  for text, i in vocabulary.items():
    if i in added:
      sizes[i] = 0 if added[i].special else len(text.encode())
    elif set(text) <= alphabet:
      sizes[i] = len(text)
  return sizes


def _keeps_bytes(config: dict[str, Any]) -> bool:
  """Whether a tokenizer's configuration is one of byte-level pairs that takes the text as it is."""
  steps, model = config.get("pre_tokenizer") or {}, config["model"]
  steps = steps.get("pretokenizers", [steps])
  levels = [step for step in steps if step.get("type") == "ByteLevel"]
  cuts = {"Split", "Digits", "Punctuation"}
  return (model.get("type") == "BPE" and config.get("normalizer") is None and len(levels) == 1
          and not levels[0].get("add_prefix_space")
          and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
          and all(step is levels[0] or step.get("type") in cuts and step.get("behavior") != "Removed"
                  for step in steps))
