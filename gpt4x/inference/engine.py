"""Decoding: prompts are prefilled a segment at a time, then every token costs the same, however long the text grows."""

from typing import Any, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.sampling import Sampling
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.transformer_xl import Cache

BOS = 0  # The first input of every document, as in seqio's decoder features.


class Decoder:
  """Continues prompts with a language model.

  Every token attends to the `window` latest positions, itself included: a forward pass over the whole text with that
  window gives the same logits. Prompts of unequal length are padded on the left, where padding is never seen.
  """

  def __init__(self, model: LanguageModel, window: int, eos_id: int | None, num_ids: int | None = None,
               sampling: Sampling = Sampling(), segment_length: int = 128, chunk_length: int = 32,
               first_id: int = BOS + 1):
    """Prepares to decode.

    Args:
      model: the language model.
      window: positions kept, W.
      eos_id: the token that ends a continuation; None: none does.
      num_ids: ids from here on are never drawn, as the vocabulary has none (None: all may be).
      sampling: how tokens are drawn.
      segment_length: tokens of a prompt that are run at once, at most.
      chunk_length: tokens that are decoded between two looks at whether all rows have ended.
      first_id: ids below are never drawn; 0 where BOS is also a word of the vocabulary.
    """
    self._model, self._window, self._eos_id = model, window, -1 if eos_id is None else eos_id
    self._segment_length, self._chunk_length = segment_length, chunk_length
    ids = np.arange(model.config.vocab_size)
    self._allowed = (ids >= first_id) & (ids < (num_ids or len(ids)))
    self._sampling = sampling
    self._project_positions = jax.jit(model.project_positions, donate_argnums=1, static_argnums=2)
    self._prefill = jax.jit(model.prefill, donate_argnums=3)
    self._start = jax.jit(model.start_decoding)
    self._decode = jax.jit(self._decode_chunk, donate_argnums=(1, 2))

  def __call__(self, params: Any, prompts: Sequence[Sequence[int]], max_tokens: int, seed: int = 0,
               bidirectional: bool = False) -> Iterator[np.ndarray]:
    """Yields continuations in pieces [B, n], n tokens at a time; a row that has ended goes on with EOS.

    Args:
      params: the model's parameters.
      prompts: token ids, without BOS, of each of B rows.
      max_tokens: tokens to add at most.
      seed: of the sampling.
      bidirectional: the prompt's tokens see each other in both directions (prefix LM).
    """
    logits, cache = self.prefill(params, prompts, bidirectional)
    ended = np.zeros(len(prompts), bool)
    rng = jax.random.key(seed)
    for start in range(0, max_tokens, self._chunk_length):
      tokens, logits, cache = self._decode(params, logits, cache, jax.random.fold_in(rng, start))
      tokens = np.asarray(tokens)[:, :max_tokens - start]
      # From a row's first EOS on, all is EOS.
      ends = np.cumsum(np.concatenate([ended[:, None], tokens == self._eos_id], 1), 1) > 0
      tokens = np.where(ends[:, 1:], self._eos_id, tokens)
      yield tokens
      ended = ends[:, -1]
      if ended.all():
        return

  def prefill(self, params: Any, prompts: Sequence[Sequence[int]],
              bidirectional: bool = False) -> tuple[jax.Array, Cache]:
    """Logits [B, V] of the first new token, and the cache that the prompts leave."""
    longest = 1 + max(map(len, prompts))
    sixteens = lambda length: -(-length // 16) * 16  # To compile for few lengths.
    limit = sixteens(longest) if bidirectional else self._segment_length  # What sees both directions is seen whole.
    pieces = -(-longest // limit)
    step = min(limit, sixteens(-(-longest // pieces)))
    total = pieces * step
    tokens = np.zeros((len(prompts), total), np.int32)
    segment_ids = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
      tokens[row, total - len(prompt):] = prompt
      segment_ids[row, total - len(prompt) - 1:] = 1
    memory = self._model.initial_memory(len(prompts), self._window, projected=True)
    if pieces > 4:  # For fewer it may take longer to compile than it saves.
      memory = self._project_positions(params, memory, step)
    for start in range(0, total, step):
      piece = slice(start, start + step)
      logits, memory = self._prefill(params, tokens[:, piece], segment_ids[:, piece], memory,
                                     segment_ids[:, piece] if bidirectional else None)
    return logits, self._start(params, memory)

  def _decode_chunk(self, params: Any, logits: jax.Array, cache: Cache, rng: jax.Array):
    """Draws `chunk_length` tokens [B, n] in turn; returns them, the logits of the next and the cache."""
    def one(carry, rng):
      logits, cache = carry
      tokens = self._sampling(jnp.where(self._allowed, logits, -jnp.inf), rng)
      return self._model.decode_step(params, tokens, cache), tokens

    (logits, cache), tokens = jax.lax.scan(one, (logits, cache), jax.random.split(rng, self._chunk_length))
    return tokens.T, logits, cache
