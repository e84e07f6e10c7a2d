"""Several tokens of one row at a time: what they may be is guessed, and the model says how far the guess was right.

What comes is what would have come without: each token is drawn by the model's own logits and the row's own key, and a
guess counts where it is what was drawn.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.engine import Chunk, Engine, Slots
from gpt4x.models.language_model import Params


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
        found = ids[start:].tolist()  # What goes on where the text ends repeats itself.
        return [found[place % len(found)] for place in range(count)]
    return []


class Speculation:
  """Draws the tokens of a row that is alone in the slots of an engine, by guesses."""

  def __init__(self, engine: Engine, count: int = 8):
    """Takes the engine whose tokens are to come, and how many come at once, at most; no more than are in view."""
    self._engine, self.count = engine, min(count, engine.window)
    self._judge = jax.jit(self._judged, donate_argnums=1)

  def step(self, params: Params, slots: Slots, guess: Sequence[int]) -> tuple[Chunk, Slots]:
    """The tokens [1, n] that come next: one, and as many behind it as were guessed; and the slots behind them."""
    padded = np.full(self.count, -1, np.int32)
    padded[:len(guess)] = guess
    places = jax.tree.map(lambda leaf: leaf.sharding, slots)
    with self._engine.mesh():
      found, right, slots = self._judge(params, slots, padded)
      slots = jax.device_put(slots, places)  # Where they were: programs are compiled for that.
    n = int(right) + 1
    return Chunk(*jax.tree.map(lambda steps: np.asarray(steps)[:n].swapaxes(0, 1), found)), slots

  def _judged(self, params: Params, slots: Slots, guess: jax.Array):
    """What is drawn at each place [count, 1] (and alternatives) if the guesses before it are right, how many are, and
    the slots behind those."""
    first, *_ = self._engine.draw(slots)
    logits, new = self._engine.model.decode_ahead(params, jnp.append(first, jnp.maximum(guess[1:], 0))[None],
                                                  slots.cache)

    def one(tokens, place):
      logits, number = place
      found = self._engine.draw(slots.replace(logits=logits, drawn=slots.drawn + number, tokens=tokens))
      tokens = None if tokens is None else tokens.after(found[0])
      return tokens, (found, tokens)

    places = jnp.concatenate([slots.logits[None], jnp.swapaxes(logits, 0, 1)[:-1]]), jnp.arange(self.count)
    _, (found, tokens) = jax.lax.scan(one, slots.tokens, places)
    right = jnp.sum(jnp.cumprod(found[0][1:, 0] == guess[1:]))
    return found, right, slots.replace(
        logits=logits[:, right], cache=slots.cache.after(new, right + 1), drawn=slots.drawn + right + 1,
        tokens=jax.tree.map(lambda steps: steps[right], tokens))
