"""GPT4Tokenizer: a vocabulary with the calls of transformers' tokenizers."""

from collections.abc import Iterable, Sequence
import functools
import os
from typing import Any, Self

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import numpy as np
import seqio

from gpt4x import run_directory, storage
from gpt4x.api import pretrained, special_tokens
from gpt4x.api.attributes import Attributes
from gpt4x.data import chat_template, vocabularies
from gpt4x.data.chat_template import Message, Template
from gpt4x.errors import UserError

Text = str | Sequence[str]


class GPT4Tokenizer:
  """Text to ids and back, by a vocabulary of this project: bytes, SentencePiece, a tokenizer.json, or words.

  No ids begin with a start token: a model reads that before a text's first token by itself.

  Attributes:
    vocabulary: the seqio vocabulary behind it.
    padding_side: where rows are filled up, 'right' or 'left'; prompts of unequal length go left.
    template: how conversations are written, the model's own or else a short one of this project's.
  """

  def __init__(self, vocabulary: seqio.Vocabulary, padding_side: str = "right"):
    """Takes a seqio vocabulary, of one's own or of a task."""
    if not isinstance(vocabulary, seqio.Vocabulary):
      raise UserError(f"GPT4Tokenizer takes a seqio vocabulary, not a {type(vocabulary).__name__}: write"
                      " GPT4Tokenizer.from_pretrained(NAME) for the tokenizer of a model")
    self.vocabulary: Any = vocabularies.held(vocabulary)
    self.padding_side = padding_side
    self.template = Template()

  @classmethod
  def from_pretrained(cls, name: str | os.PathLike, padding_side: str = "right") -> Self:
    """The tokenizer of a model; see GPT4LMHeadModel.from_pretrained for names."""
    directory = pretrained.find(name)
    made = cls(pretrained.read_vocabulary(directory), padding_side)
    made.template = pretrained.read_template(directory) or made.template
    return made

  @classmethod
  def of_bytes(cls, extra_ids: int = 1) -> Self:
    """The bytes of UTF-8, 259 ids with the special ones; the last of the extra ids is a mask token."""
    return cls(seqio.ByteVocabulary(extra_ids))

  def save_pretrained(self, directory: str | os.PathLike) -> None:
    """Writes the vocabulary as every model directory has it."""
    vocabularies.save(self.vocabulary, directory)
    storage.write(storage.path(directory) / run_directory.CHAT_TEMPLATE, self.template.text.encode())

  # Ids.

  @property
  def vocab_size(self) -> int:
    return self.vocabulary.vocab_size

  def __len__(self) -> int:
    return self.vocab_size

  @functools.cached_property
  def _special(self) -> dict[int, str]:
    return special_tokens.special_tokens(self.vocabulary)

  @property
  def all_special_ids(self) -> list[int]:
    """The ids that stand for no text, rising."""
    return sorted(self._special)

  @property
  def pad_token_id(self) -> int | None:
    return self.vocabulary.pad_id

  @property
  def eos_token_id(self) -> int | None:
    return self.vocabulary.eos_id

  @property
  def bos_token_id(self) -> int:
    """What a model reads before a text's first token; no ids hold it."""
    return vocabularies.start_id(self.vocabulary)

  @property
  def unk_token_id(self) -> int | None:
    return self.vocabulary.unk_id

  @functools.cached_property
  def mask_token_id(self) -> int | None:
    """The id that hides a token; None if the vocabulary has none: see `special_tokens.mask_id`."""
    return special_tokens.mask_id(self._special)

  @property
  def filler_id(self) -> int:
    """What fills up rows: the id of padding, or any other where there is none, since the mask tells."""
    return next(i for i in (self.pad_token_id, self.eos_token_id, 0) if i is not None)

  # Text to ids.

  def encode(self, text: str) -> list[int]:
    """The ids of a text, and nothing before or behind them."""
    if not isinstance(text, str):
      raise UserError(f"a tokenizer takes text, not a {type(text).__name__}: give a str, or a list of them to"
                      " tokenizer(...)")
    return [int(i) for i in self.vocabulary.encode(text)]

  def apply_chat_template(self, conversation: Sequence[Message], tokenize: bool = True,
                          add_generation_prompt: bool = False) -> list[int] | str:
    """A conversation as the template writes it: its ids, without the start token, or its text.

    Args:
      conversation: messages {"role", "content"}.
      tokenize: whether ids are wanted.
      add_generation_prompt: whether the beginning of an answer follows, which the model is to give.
    """
    pieces = self.template.pieces(conversation, add_generation_prompt)
    if tokenize:
      return chat_template.encode(pieces, self.vocabulary)[0]
    ids = {"bos": self.bos_token_id, "eos": self.eos_token_id}
    names = {name: self._special.get(i, "") if i is not None else "" for name, i in ids.items()}
    return "".join(names[piece.text] if piece.kind == "token" else piece.text for piece in pieces)

  def __call__(self, text: Text, return_tensors: str | None = None, padding: bool | str = False,
               truncation: bool = False, max_length: int | None = None) -> Attributes:
    """The `input_ids` and the `attention_mask` of a text or of several.

    Args:
      text: a str, or a list of them.
      return_tensors: 'np' or 'jax' for arrays [B, n]; None for lists, of a single text one.
      padding: True or 'longest' fills up to the longest row; 'max_length' up to `max_length`.
      truncation: whether rows are cut to `max_length`.
      max_length: of a row.
    """
    if return_tensors not in (None, "np", "jax"):
      raise UserError(f"return_tensors = {return_tensors!r} is unknown: use 'np' or 'jax', or None for lists")
    if padding not in (False, True, "longest", "max_length", "do_not_pad"):
      raise UserError(f"padding = {padding!r} is unknown: use True, 'max_length' or False")
    if (truncation or padding == "max_length") and (max_length is None or max_length < 1):
      raise UserError(f"max_length = {max_length} must be at least 1 for truncation and for padding='max_length': set"
                      " it")
    single = isinstance(text, str)
    rows = [self.encode(one) for one in ([text] if isinstance(text, str) else text)]
    rows = [row[:max_length] for row in rows] if truncation else rows
    if padding and padding != "do_not_pad":
      return self.pad(rows, max_length if padding == "max_length" else None, return_tensors,
                      single and return_tensors is None)
    if return_tensors is None:
      masks = [[1] * len(row) for row in rows]
      return Attributes(input_ids=rows[0] if single else rows, attention_mask=masks[0] if single else masks)
    if len({len(row) for row in rows}) > 1:
      raise UserError(f"rows of {min(map(len, rows))} to {max(map(len, rows))} tokens make no array: set padding=True")
    return self.pad(rows, None, return_tensors)

  def pad(self, rows: Sequence[Sequence[int]], length: int | None = None, return_tensors: str | None = "np",
          single: bool = False) -> Attributes:
    """Rows of ids filled up to `length`, or to the longest, on the side that `padding_side` says."""
    if self.padding_side not in ("left", "right"):
      raise UserError(f"GPT4Tokenizer.padding_side = {self.padding_side!r} must be 'left' or 'right'")
    length = max([length or 0, *map(len, rows)])
    ids, mask = np.full((len(rows), length), self.filler_id, np.int32), np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
      place = slice(length - len(row), length) if self.padding_side == "left" else slice(len(row))
      ids[number, place], mask[number, place] = row, 1
    if return_tensors == "jax":
      import jax.numpy as jnp
      return Attributes(input_ids=jnp.asarray(ids), attention_mask=jnp.asarray(mask))
    if return_tensors is None:
      found = Attributes(input_ids=ids.tolist(), attention_mask=mask.tolist())
      return Attributes({name: rows[0] for name, rows in found.items()}) if single else found
    return Attributes(input_ids=ids, attention_mask=mask)

  # Ids to text.

  def convert_ids_to_tokens(self, i: int) -> str:
    """How an id is written: a special one by its name."""
    return self._special.get(i) or self.vocabulary.decode([i])

  def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
    """The text of ids, [n]; special ones by their names, or left out."""
    found = [int(i) for i in np.asarray(ids).reshape(-1)]
    for i in found:
      if not 0 <= i < self.vocab_size:
        raise UserError(f"there is no token {i} among the {self.vocab_size} of the vocabulary: decode ids of its own")
    if skip_special_tokens:
      return self._text([i for i in found if i not in self._special])
    parts, run = [], list[int]()
    for i in found:
      if i in self._special:
        parts += [self._text(run), self._special[i]]
        run = []
      else:
        run.append(i)
    return "".join([*parts, self._text(run)])

  def _text(self, ids: list[int]) -> str:
    return self.vocabulary.decode(ids) if ids else ""

  def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
    """The text of each row."""
    return [self.decode(row, skip_special_tokens) for row in rows]

  def __repr__(self) -> str:
    return f"GPT4Tokenizer({vocabularies.describe(self.vocabulary)})"
