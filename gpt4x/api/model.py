"""GPT4LMHeadModel: a language model and its parameters, with the calls of transformers' causal models."""

from collections.abc import Mapping
import functools
import math
import os
from typing import Any, Self
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.api import layout, pretrained
from gpt4x.api.attributes import Attributes
from gpt4x.api.config import GPT4Config
from gpt4x.data import vocabularies
from gpt4x.errors import nearest, UserError
from gpt4x.inference import media
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.models.language_model import LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.training.state import run_keys

_CHUNK = 32  # Tokens that are decoded between two looks at whether all rows have ended.


class GPT4LMHeadModel:
  """A Transformer-XL language model that holds its parameters, on one device.

  `input_ids` hold no start token: before a text's first token the model reads one by itself, so it gives the first
  token a probability too. A token sees the `config.n_positions` latest.

  Attributes:
    config: its GPT4Config.
    language_model: its functions (models/language_model.py), which take `params`.
    vocabulary: what the ids stand for, a seqio vocabulary; None: nobody has said.
  """

  def __init__(self, config: GPT4Config, seed: int = 0):
    """Makes fresh weights: those that `gpt4x train` starts from with this seed."""
    self._set_up(config)
    self.params = jax.jit(self.language_model.init)(run_keys(seed)[0])

  def _set_up(self, config: GPT4Config, vocabulary: Any = None, sees_prompts_whole: bool = False,
              files: Mapping[str, bytes] | None = None) -> None:
    self.config, self.language_model = config, LanguageModel(config.transformer, form=None)
    self.vocabulary, self._sees_prompts_whole, self._files = vocabulary, sees_prompts_whole, dict(files or {})
    self._read: tuple[tuple[str, int], list[Any]] | None = None
    self._engine = functools.lru_cache(maxsize=4)(self._make_engine)
    self._run = jax.jit(self._segment, static_argnames="bidirectional")

  # Weights.

  @classmethod
  def from_pretrained(cls, name: str | os.PathLike, **changes: Any) -> Self:
    """The model of a name, with its weights.

    Args:
      name: a directory of ours (a run, or a model that was saved or converted) or in the layout of Hugging Face, else a
        model that ships with this package, else one of the hub's, if huggingface_hub is installed.
      **changes: of its GPT4Config, which change nothing about the weights, such as n_positions or dtype.
    """
    found = pretrained.read(pretrained.find(name))
    config = GPT4Config.of(*found.sizes).replaced(**changes)
    made = cls.__new__(cls)
    made._set_up(config, found.vocabulary, found.sees_prompts_whole, found.files)
    made.params = found.params
    if found.place is not None:
      made.came_from(*found.place)
    return made

  def save_pretrained(self, directory: str | os.PathLike) -> None:
    """Writes a model directory, which `from_pretrained`, `gpt4x generate` and `train.init_from` read.

    It has the vocabulary that the model came with or was trained with, or that a tokenizer was saved with there before.
    """
    pretrained.save(directory, self.language_model, self.params, self.config.segment_length, self.vocabulary,
                    self._files)

  @property
  def params(self) -> Params:
    """The parameters, a nested dict of arrays."""
    return self._params

  @params.setter
  def params(self, params: Params) -> None:
    shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), self.language_model.declared[0])
    found = jax.tree.map(lambda leaf: tuple(np.shape(leaf)), params)
    if found != shapes:
      raise UserError("these are not the parameters of this model: their names or shapes are others; make a model of"
                      " their own GPT4Config")
    self._params, self._read = jax.tree.map(jnp.asarray, params), None

  def came_from(self, directory: str, step: int) -> None:
    """Notes that the parameters are those of a checkpoint, as long as they stay these."""
    self._read = (directory, step), jax.tree.leaves(self._params)

  @property
  def checkpoint(self) -> tuple[str, int] | None:
    """(directory, step) of the checkpoint with these very parameters; None: none is known."""
    if self._read is None:
      return None
    place, leaves = self._read
    now = jax.tree.leaves(self._params)
    return place if len(now) == len(leaves) and all(map(lambda one, other: one is other, now, leaves)) else None

  def num_parameters(self) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self._params))

  def speaks(self, vocabulary: Any) -> None:
    """Takes a vocabulary for its own: what its ids stand for, and which begin and end a text."""
    self.vocabulary = vocabulary
    self.config = GPT4Config.of(self.config.transformer, self.config.n_positions, pretrained.tokens_of(vocabulary))
    self._engine.cache_clear()

  # Logits and loss.

  def __call__(self, input_ids: Any, attention_mask: Any = None, labels: Any = None,
               past_key_values: Memory | None = None, use_cache: bool = True,
               bidirectional: bool = False) -> Attributes:
    """The logits behind each token, and the loss of labels.

    Args:
      input_ids: [B, n], without a start token.
      attention_mask: [B, n], 0 for padding, on either side.
      labels: [B, n], the tokens themselves for the likelihood of a text; -100 and padding count for nothing. A label is
        predicted from what is before it. The first is predicted from the start token; behind `past_key_values`, whose
        logits were of the call before, it does not count.
      past_key_values: what the call before gave; the text goes on from there.
      use_cache: whether `past_key_values` are wanted.
      bidirectional: for a model that was trained with mlm=True: all tokens see each other, and the logits and labels at
        a place are for the token of that place.

    Returns:
      `logits` [B, n, V] in float32, those at i for the token after i; `loss`, the mean negative log-likelihood of the
      labels in nats, or None; `past_key_values`, a Memory, or None.
    """
    ids, real, targets = layout.arrays(input_ids, attention_mask if past_key_values is None else
                                       _last(attention_mask, input_ids), labels)
    layout.check_ids("input_ids", ids, self.config.vocab_size)
    if not ids.shape[1]:
      raise UserError("input_ids has no tokens: give the model some; generate() begins from nothing")
    if bidirectional and past_key_values is not None:
      raise UserError("with bidirectional=True nothing comes before: leave past_key_values out")
    begins = past_key_values is None and not bidirectional
    tokens, segments = ids, real.astype(np.int32)
    if begins:
      tokens, segments = layout.with_start(ids, real, self.config.bos_token_id)
    memory = self._room(len(ids), tokens.shape[1], past_key_values, use_cache and not bidirectional)
    logits, memory = self._run(self.params, tokens, segments, memory, bidirectional=bidirectional)
    loss = None
    if targets is not None:
      counted = (targets != layout.IGNORED) & real
      layout.check_ids("labels", targets[counted], self.config.vocab_size)
      predicted = slice(None) if bidirectional else slice(-1)
      targets, counted = (targets, counted) if begins or bidirectional else (targets[:, 1:], counted[:, 1:])
      loss = _loss(logits[:, predicted], np.where(counted, targets, 0), counted)
    return Attributes(loss=loss, logits=logits[:, 1:] if begins else logits,
                      past_key_values=memory if use_cache and not bidirectional else None)

  def _segment(self, params: Params, tokens: jax.Array, segments: jax.Array, memory: Memory, bidirectional: bool):
    output = self.language_model.forward(params, tokens, memory, segments, segments if bidirectional else None,
                                         None if bidirectional else self.config.n_positions)
    return self.language_model.unembed(params, output.hidden), output.memory

  def _room(self, rows: int, length: int, past: Memory | None, kept: bool) -> Memory:
    """A memory with room for what is to be kept of it and of `length` tokens more."""
    most = self.config.n_positions
    if past is not None:
      return past.after_empty(max(0, min(most - past.length, length)))
    if self.config.transformer.empty_memory == "zeros":  # Which are seen, so that their number counts.
      return self.language_model.initial_memory(rows, most, projected=True)
    return self.language_model.initial_memory(rows, min(most, length) if kept else 0, projected=True)

  # Text.

  def generate(self, input_ids: Any = None, attention_mask: Any = None, max_new_tokens: int = 20,
               do_sample: bool = False, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
               num_return_sequences: int = 1, eos_token_id: int | None = None, pad_token_id: int | None = None,
               seed: int = 0, **others: Any) -> np.ndarray:
    """Prompts and their continuations, [B * num_return_sequences, n + new] int32.

    A row's draws depend on its prompt, the seed and its number among the prompt's sequences, not on its neighbours.

    Args:
      input_ids: [B, n], without a start token; None: one text from its beginning.
      attention_mask: [B, n], 0 for padding: rows of unequal length are padded on the left.
      max_new_tokens: how many are added at most.
      do_sample: whether tokens are drawn; else each is the likeliest.
      temperature, top_k, top_p: of the draws; see `Sampling`.
      num_return_sequences: of each prompt.
      eos_token_id: ends a row; None: the one of the vocabulary.
      pad_token_id: fills up rows that have ended; None: the one of the vocabulary, or what ended them.
      seed: of the draws.
    """
    if others:
      known = "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "num_return_sequences", "seed"
      raise UserError(f"generate has no {next(iter(others))}{nearest(next(iter(others)), known)}")
    if max_new_tokens < 1 or num_return_sequences < 1:
      raise UserError(f"max_new_tokens = {max_new_tokens} and num_return_sequences = {num_return_sequences} must be at"
                      " least 1")
    if num_return_sequences > 1 and not do_sample:
      raise UserError(f"num_return_sequences = {num_return_sequences} would all be alike: set do_sample=True")
    ids, real, _ = layout.arrays(np.zeros((1, 0), np.int32) if input_ids is None else input_ids, attention_mask)
    layout.check_ids("input_ids", ids, self.config.vocab_size)
    eos = self.config.eos_token_id if eos_token_id is None else eos_token_id
    pad = next((i for i in (pad_token_id, self.config.pad_token_id, eos) if i is not None), 0)
    prompts = [row[mask].tolist() for row, mask in zip(ids, real) for _ in range(num_return_sequences)]
    numbers = [zlib.crc32(f"{number % num_return_sequences} {prompt}".encode())
               for number, prompt in enumerate(prompts)]
    sampling = Sampling(temperature, top_k, top_p) if do_sample else Sampling(temperature=0.0)
    engine = self._engine(eos, sampling, min(_CHUNK, max_new_tokens))
    new = np.concatenate([piece.tokens for piece in engine(
        self.params, prompts, max_new_tokens, seed, self._sees_prompts_whole, numbers)], 1)
    if eos is not None:
      ended = np.cumsum(new == eos, 1) - (new == eos) > 0  # Behind a row's first end.
      new = np.where(ended, pad, new)[:, :int((~ended).sum(1).max())]
    return np.concatenate([np.repeat(ids, num_return_sequences, 0), new], 1).astype(np.int32)

  def _make_engine(self, eos: int | None, sampling: Sampling, chunk: int) -> Engine:
    vocabulary, first, count = self.vocabulary, 0, None
    if vocabulary is not None:
      first, count = vocabularies.first_text_id(vocabulary), vocabulary.vocab_size
    return Engine(self.language_model, self.config.n_positions, eos, count, sampling, chunk_length=chunk,
                  first_id=first, grammar=media.grammar(vocabulary, None), start_id=self.config.bos_token_id)

  def __repr__(self) -> str:
    return f"GPT4LMHeadModel({self.num_parameters():,} parameters, {self.config!r})"


def _last(mask: Any, input_ids: Any) -> Any:
  """The mask of the new tokens, of one that may be of those before as well."""
  return None if mask is None else np.asarray(mask)[:, -np.shape(input_ids)[1]:]


@jax.jit
def _loss(logits: jax.Array, targets: jax.Array, counted: jax.Array) -> jax.Array:
  """The mean negative log-likelihood of the targets that count."""
  nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
  return jnp.sum(jnp.where(counted, nats, 0.0)) / jnp.maximum(jnp.sum(counted), 1)
