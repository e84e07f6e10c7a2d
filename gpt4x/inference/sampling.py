"""Choosing the next token from logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn; temperature 0 takes the likeliest (the first of equals)."""

  temperature: float = 1.0
  top_k: int | None = None  # Only among the k likeliest.
  top_p: float | None = None  # Only among the likeliest that together hold this probability (arXiv:1904.09751).

  def __call__(self, logits: jax.Array, rng: jax.Array) -> jax.Array:
    """Draws tokens [B] from float32 logits [B, V]."""
    if self.temperature == 0:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    return jax.random.categorical(rng, self.filter(logits / self.temperature)).astype(jnp.int32)

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
