"""Several tokens of one row at a time: what they may be is guessed, and the model says how far the guess was right.

What comes is what would have come without: each token is drawn by the model's own logits and the row's own key, and a
guess counts where it is what was drawn.
"""

from collections.abc import Sequence
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.engine import Chunk, Engine, Prefilled, row_keys
from gpt4x.inference.sampling import Sampling, Settings, Tokens
from gpt4x.models.language_model import Params
from gpt4x.models.memory import Memory


class Proposer(Protocol):
  """Guesses how a text goes on."""

  def __call__(self, text: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens behind those of a text; none if nothing is known."""


class PromptLookup:
  """What stood behind the last place where the text's end stands in it already (prompt lookup decoding)."""

  def __init__(self, longest: int = 4, shortest: int = 2):
    """Takes how many tokens of the end are looked for, at most and at least."""
    self._longest, self._shortest = longest, shortest

  def __call__(self, text: Sequence[int], count: int) -> list[int]:
    ids = np.asarray(text, np.int32)
    for length in range(min(self._longest, len(ids) - 1), self._shortest - 1, -1):
      windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
      places = np.flatnonzero((windows == ids[-length:]).all(1))
      if len(places):
        start = int(places[-1]) + length
        return ids[start:start + count].tolist()
    return []


class Alone(flax.struct.PyTreeNode):
  """A row that goes on by several tokens: what was drawn last is not in the memory yet."""

  memory: Memory
  token: jax.Array  # int32 [1], drawn last.
  keys: jax.Array  # [1]
  drawn: jax.Array  # int32 [1]
  settings: Settings
  tokens: Tokens | None


class Speculation:
  """Draws the tokens of rows that are alone, by guesses of `count` tokens."""

  def __init__(self, engine: Engine, count: int = 7):
    """Takes the engine whose tokens are to come, and how many are guessed at most: with one more, a power of two."""
    self._engine, self.count = engine, count
    self._first = jax.jit(self._draw_first)
    self._verify = jax.jit(self._draw_guessed)

  def start(self, prefilled: Prefilled, seed: int = 0, sample: int = 0,
            sampling: Sampling = Sampling(), prompt: Sequence[int] = ()) -> tuple[Chunk, Alone]:
    """The first token of a row whose prompt was read by `Engine.extend`; the arguments are `Engine.insert`'s."""
    token, log_prob, row = self._first(prefilled, row_keys(seed, [sample]), Settings.of([sampling]),
                                       self._engine.tokens_of(prompt, sampling))
    return Chunk(np.asarray(token)[None], np.asarray(log_prob)[None], None), row

  def step(self, params: Params, row: Alone, guess: Sequence[int]) -> tuple[Chunk, Alone]:
    """The tokens [1, n] that come next: as many as were guessed rightly, and one more."""
    padded = np.full(self.count, -1, np.int32)
    padded[:len(guess)] = guess
    tokens, log_probs, right, row = self._verify(params, row, padded, self._engine.position_keys(params))
    n = int(right) + 1
    return Chunk(np.asarray(tokens)[None, :n], np.asarray(log_probs)[None, :n], None), row

  def leave(self, params: Params, row: Alone) -> Prefilled:
    """What the row's tokens leave, with which it goes on elsewhere."""
    return self._engine.extend(params, Prefilled(jnp.zeros((1, 0)), row.memory), [int(row.token[0])])

  def _draw_first(self, prefilled: Prefilled, keys: jax.Array, settings: Settings, tokens: Tokens | None):
    row = Alone(prefilled.memory, jnp.zeros(1, jnp.int32), keys, jnp.zeros(1, jnp.int32), settings, tokens)
    token, log_prob, row = self._drawn(prefilled.logits, row)
    return token, log_prob, row

  def _draw_guessed(self, params: Params, row: Alone, guess: jax.Array, position_keys: jax.Array | None):
    """Tokens [n] and log-probabilities, of which the first `right` + 1 count; and the row behind these."""
    read = jnp.concatenate([row.token, jnp.maximum(guess, 0)])[None]
    hidden, memory = self._engine.read(params, read, row.memory, position_keys)

    def one(row, logits):
      token, log_prob, row = self._drawn(logits, row)
      return row, (token[0], log_prob[0], row.tokens)

    logits = jnp.swapaxes(self._engine.model.unembed(params, hidden), 0, 1)
    _, (found, log_probs, tokens) = jax.lax.scan(one, row.replace(memory=None), logits)
    right = jnp.sum(jnp.cumprod(found[:-1] == guess))
    return found, log_probs, right, row.replace(
        memory=memory.without_last(self.count - right[None], self.count), token=found[right][None],
        drawn=row.drawn + right + 1, tokens=jax.tree.map(lambda steps: steps[right], tokens))

  def _drawn(self, logits: jax.Array, row: Alone) -> tuple[jax.Array, jax.Array, Alone]:
    """The next token [1] and its log-probability, of logits [1, V]; and the row with it."""
    token, log_probs = self._engine.draw(logits, row.keys, row.drawn, row.settings, row.tokens)
    tokens = None if row.tokens is None else row.tokens.after(token)
    return token, log_probs[:, token[0]], row.replace(token=token, drawn=row.drawn + 1, tokens=tokens)
