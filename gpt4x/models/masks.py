"""Mask: the one description of what sees what, which each kernel of attention turns into what it needs."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool

from gpt4x.models.shapes import Array


@flax.struct.dataclass
class Mask:
  """Which of T keys each of L queries, the last of them, sees: its document's, no later one, none beyond a window."""

  queries: jax.Array  # [B, L], documents; 0 marks padding and empty memory, which only padding sees.
  keys: jax.Array  # [B, T], the same.
  prefix: jax.Array | None = None  # [B, L], above 0 where positions of a document see each other in both directions.
  window: int | None = flax.struct.field(pytree_node=False, default=None)  # Positions seen, one's own included.

  @property
  def length(self) -> int:
    return self.queries.shape[1]

  def block(self, start: int = 0, stop: int | None = None) -> Bool[Array, "B C P"]:
    """True where the queries from `start` to `stop` see a key of the P that are not ahead of all of them."""
    stop = self.length if stop is None else stop
    total = self.keys.shape[1]
    seen = total - self.length + stop
    distance = jnp.arange(seen - stop + start, seen)[:, None] - jnp.arange(seen)
    allowed = distance >= 0 if self.window is None else (distance >= 0) & (distance < self.window)
    if self.prefix is not None:
      keys = jnp.pad(self.prefix, ((0, 0), (total - self.length, 0)))[:, :seen]
      allowed = allowed | ((self.prefix[:, start:stop, None] > 0) & (keys[:, None, :] > 0))
    return allowed & (self.queries[:, start:stop, None] == self.keys[:, None, :seen])

  def blocks(self, chunk: int | None) -> list[jax.Array]:
    """`block` of each `chunk` queries in turn; of all at once where a prefix lets queries see ahead."""
    chunk = (self.prefix is None and chunk) or self.length
    return [self.block(start, min(start + chunk, self.length)) for start in range(0, self.length, chunk)]
