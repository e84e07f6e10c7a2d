"""Where the codes of images and videos lie: frame, row and column, as the ids around them say."""

import dataclasses

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from gpt4x.errors import require
from gpt4x.media.layout import SPECIALS
from gpt4x.models.shapes import Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CodePlaces:
  """Learned embeddings of a code's frame, row and column, added to its own (arXiv:2102.12092, appendix B).

  Places follow from the stream alone, as media/layout.py has it: a row's end is an id, and so is a frame's. Text, ids
  of structure and the codes of sounds have no place.
  """

  text_size: int  # The ids of text, behind which those of structure come.
  num_sizes: int = 64  # MediaTokens.sizes.
  # How many of each have an embedding; what lies further shares the last one's.
  frames: int = 64
  rows: int = 64
  columns: int = 64  # Codes of a row: several where a cell has several.

  def __post_init__(self):
    require(self, "at least 1", lambda size: size >= 1, "text_size", "num_sizes", "frames", "rows", "columns")

  @property
  def size(self) -> int:
    """Rows of the table: those of frames, of rows, of columns."""
    return self.frames + self.rows + self.columns

  def start(self, batch_size: int) -> Int[Array, "B 4"]:
    """The state of rows of which nothing has come: what `find` counts, and whether a sound is open."""
    return jnp.zeros((batch_size, 4), jnp.int32)

  def find(self, tokens: Int[Array, "B L"],
           state: Int[Array, "B 4"]) -> tuple[Int[Array, "B L 3"], Bool[Array, "B L"], Int[Array, "B 4"]]:
    """The rows of the table for each token, whether it has a place at all, and the state behind the last one."""
    special = lambda *names: jnp.isin(tokens, jnp.array([self.text_size + SPECIALS.index(name) for name in names]))
    code = tokens >= self.text_size + len(SPECIALS) + self.num_sizes
    begin, row_end, frame_end = special("IMAGE", "VIDEO"), special("ROW_END"), special("FRAME_END")
    frame, row, sound = state[:, 0], state[:, 1], state[:, 3]
    counts = jnp.stack([
        _since(begin, frame_end, frame), _since(begin | frame_end, row_end, row),
        _since((tokens >= self.text_size) & ~code, code, state[:, 2]),
        _since(begin | frame_end, special("AUDIO", "SOUND"), sound)], -1)
    last = jnp.array([self.frames, self.rows, self.columns])
    places = jnp.minimum(counts[..., :3] - jnp.array([0, 0, 1]), last - 1)  # The code itself has been counted.
    return places + jnp.cumsum(last) - last, code & (counts[..., 3] == 0), counts[:, -1]


def _since(reset: jax.Array, counted: jax.Array, start: jax.Array) -> jax.Array:
  """How many of `counted` [B, L] there have been since the last `reset`; where none was, `start` [B] and more."""
  total = start[:, None] + jnp.cumsum(counted, 1)
  return total - jax.lax.cummax(jnp.where(reset, total, 0), axis=1)
