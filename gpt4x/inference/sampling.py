"""Choosing the next token from logits."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from gpt4x.errors import UserError

# Temperatures that float32 can divide by. Colder, only the likeliest has any probability left; hotter, all are alike.
_COLDEST, _HOTTEST = 1e-30, 1e30


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn; temperature 0 takes the likeliest (the first of equals)."""

  temperature: float = 1.0
  top_k: int | None = None  # Only among the k likeliest.
  top_p: float | None = None  # Only among the likeliest that together hold this probability (arXiv:1904.09751).
  min_p: float = 0.0  # Only those with at least this part of the likeliest one's probability (arXiv:2407.01082).
  presence_penalty: float = 0.0  # Taken off the logits of tokens that were drawn.
  frequency_penalty: float = 0.0  # Taken off as often as they were.
  repetition_penalty: float = 1.0  # Divides the logits of tokens of the prompt and of drawn ones, or multiplies them
  # where they are below 0 (arXiv:1909.05858).
  bias: tuple[tuple[int, float], ...] = ()  # Added to the logits of ids.

  def __post_init__(self):
    if not 0 <= self.temperature < math.inf:
      raise UserError(f"temperature = {self.temperature} must be a number of at least 0")
    if self.top_k is not None and not self.top_k >= 1:
      raise UserError(f"top_k = {self.top_k} must be at least 1")
    if self.top_p is not None and not 0 <= self.top_p <= 1:
      raise UserError(f"top_p = {self.top_p} must be from 0 to 1")

  def __call__(self, logits: jax.Array, keys: jax.Array, legal: jax.Array | None = None) -> jax.Array:
    """Draws tokens [B] from float32 logits [B, V] and a key for each row, which alone decides the row's draw.

    Only `legal` ones [B, V] are drawn, of those that the filters keep; where they keep none, of the legal ones that
    they keep among these alone.
    """
    possible = logits if legal is None else jnp.where(legal, logits, -jnp.inf)
    if self.temperature < _COLDEST:
      return jnp.argmax(possible, -1).astype(jnp.int32)
    kept = self._kept(possible)
    if legal is not None and (self.top_k or self.top_p is not None):
      of_all = jnp.where(legal, self._kept(logits), -jnp.inf)
      kept = jnp.where(jnp.max(of_all, -1, keepdims=True) == -jnp.inf, kept, of_all)
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

  def _kept(self, logits: jax.Array) -> jax.Array:
    """Tempered logits, -inf where the filters keep none."""
    logits -= jnp.max(logits, -1, keepdims=True)  # The largest stays 0, however small the temperature.
    return self.filter(logits / min(self.temperature, _HOTTEST))

  def filter(self, logits: jax.Array) -> jax.Array:
    """Sets the logits of tokens that may not be drawn to -inf."""
    if self.top_k is not None:
      kth = jax.lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][..., -1:]
      logits = jnp.where(logits < kth, -jnp.inf, logits)
    if self.top_p is not None:
      ordered = jnp.sort(logits, -1, descending=True)
      before = jnp.cumsum(jax.nn.softmax(ordered), -1) - jax.nn.softmax(ordered)  # Probability of the likelier ones.
      last = jnp.min(jnp.where(before < self.top_p, ordered, jnp.inf), -1, keepdims=True)
      logits = jnp.where(logits < jnp.minimum(last, ordered[..., :1]), -jnp.inf, logits)
    return logits
