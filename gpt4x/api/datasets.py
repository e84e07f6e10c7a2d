"""TextDataset: a text file as blocks of tokens."""

import hashlib
import io
import os
from typing import Any

import numpy as np

from gpt4x import storage
from gpt4x.api.tokenizer import GPT4Tokenizer
from gpt4x.data import vocabularies
from gpt4x.data.task_examples import say_once
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError


class TextDataset:
  """The tokens of a file in blocks, one after the other; what fills no block at the end is left out.

  An item is the tokens of a block, [block_size] int32.
  """

  def __init__(self, tokenizer: GPT4Tokenizer, file_path: str | os.PathLike, block_size: int,
               overwrite_cache: bool = False, cache_dir: str | os.PathLike | None = None):
    """Reads and tokenizes a file of UTF-8.

    Args:
      tokenizer: makes tokens of the text.
      file_path: the file.
      block_size: tokens of a block.
      overwrite_cache: whether what is in the cache is made again.
      cache_dir: keeps the tokens, by the content of the file, the vocabulary and the size of a block; None: nowhere.

    Raises:
      UserError: for a file that cannot be read, or makes no block.
    """
    if block_size < 1:
      raise UserError(f"TextDataset.block_size = {block_size} must be at least 1")
    path = storage.path(file_path)
    name = shown(str(path))
    try:
      content = storage.read_bytes(path)
    except OSError as error:
      raise UserError(f"TextDataset.file_path = {name} cannot be read ({error.strerror or error}): correct it"
                      ) from None
    tokens = _tokens(tokenizer, content, name, block_size, cache_dir, overwrite_cache)
    count = len(tokens) // block_size
    if not count:
      raise UserError(f"{name} has {len(tokens):,} tokens, fewer than a block of block_size = {block_size:,}: make that"
                      " smaller, or the file longer")
    if rest := len(tokens) % block_size:
      say_once(f"gpt4x: {name}: the last {rest:,} of {len(tokens):,} tokens fill no block of {block_size:,} and are"
               " left out")
    self.examples = tokens[:count * block_size].reshape(count, block_size)

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, number: int) -> np.ndarray:
    return self.examples[number]


def _tokens(tokenizer: GPT4Tokenizer, content: bytes, name: str, block_size: int, cache_dir: Any,
            overwrite: bool) -> np.ndarray:
  """The tokens of a file's content, int32, from the cache if they are there."""
  if cache_dir is None:
    return _encoded(tokenizer, content, name)
  key = hashlib.sha256(content)
  key.update(repr((sorted(vocabularies.spec(tokenizer.vocabulary).items(), key=str), block_size)).encode())
  place = storage.path(cache_dir) / f"gpt4x_{key.hexdigest()[:32]}.npy"
  try:
    if not overwrite and (kept := storage.read(place)) is not None:
      return np.load(io.BytesIO(kept), allow_pickle=False)
  except (ValueError, EOFError):  # Damaged: it is made again.
    pass
  found, written = _encoded(tokenizer, content, name), io.BytesIO()
  np.save(written, found)
  storage.make_directory(place.parent)
  storage.write(place, written.getvalue())
  return found


def _encoded(tokenizer: GPT4Tokenizer, content: bytes, name: str) -> np.ndarray:
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{name} is not UTF-8 at byte {error.start}: convert it") from None
  return np.array(tokenizer.encode(text), np.int32)
