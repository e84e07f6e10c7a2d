"""Memory: what the stack remembers of its past, between segments and while decoding."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gpt4x.models.parameters import Kernel
from gpt4x.models.rounding import Rows


@flax.struct.dataclass
class KeyValues:
  """Projected keys and values of a layer's past, [G, B, M, K] each, rotary positions not yet applied.

  Heads come first: what one multiplies then lies together, and meets R in one product.
  """

  keys: jax.Array
  values: jax.Array


class Memory(flax.struct.PyTreeNode):
  """What the stack remembers of its past; a fresh one is all zeros."""

  # Each layer's inputs [N, B, M, D]; or, for evaluation, their KeyValues (same logits, less work).
  layers: jax.Array | KeyValues
  segment_ids: jax.Array  # [B, M], the document of each position, 0 where there is none.
  # [N, G, S, K], the projected R of the distances S - 2, ..., 0, -1, made once for many segments; None: each makes it.
  position_keys: jax.Array | None = None
  places: jax.Array | None = None  # [B, 4], how far the last picture has come (models/places.py); None: nobody asks.

  @property
  def length(self) -> int:
    return self.segment_ids.shape[1]

  def split(self, parts: int) -> "Memory":
    """Rows i, i + parts, ... as microbatch i, on a new leading axis; they stay on their devices."""
    return self._map(lambda x, rows, _: split_rows(x, rows, parts))

  def join(self) -> "Memory":
    """The inverse of `split`."""
    return self._map(lambda x, rows, _: join_rows(x, rows))

  def repeat(self, times: int) -> "Memory":
    """Each row so many times in a row."""
    return self._map(lambda x, rows, _: jnp.repeat(x, times, rows))

  def take(self, numbers: jax.Array) -> "Memory":
    """The rows of these numbers, as many as there are, in their order."""
    return self._map(lambda x, rows, _: jnp.take(x, numbers, rows, mode="clip"))

  def roll(self, shift: int | jax.Array) -> "Memory":
    """Moves every position on by `shift`, the last ones to the front."""
    return self._map(lambda x, _, positions: x if positions is None else jnp.roll(x, shift, positions))

  def without_last(self, counts: jax.Array, most: int) -> "Memory":
    """Each row without so many [B] of its last positions, at most `most`; empty ones come in front."""
    def move(x, rows, positions):
      if positions is None:
        return x
      x = jnp.pad(x, [(most if i == positions else 0, 0) for i in range(x.ndim)])
      cut = lambda x, count, axis: jax.lax.dynamic_slice_in_dim(x, most - count, self.length, axis)
      if len(counts) == 1:
        return cut(x, counts[0], positions)
      return jax.vmap(lambda row, count: cut(row, count, positions - 1), (rows, 0), rows)(x, counts)

    return self._map(move)

  def last(self, length: int) -> "Memory":
    """The last positions alone."""
    keep = lambda x, _, axis: x if axis is None else jax.lax.slice_in_dim(x, x.shape[axis] - length, None, axis=axis)
    return self._map(keep)

  def after_empty(self, positions: int) -> "Memory":
    """The same behind so many empty positions."""
    pad = lambda x, axis: jnp.pad(x, [(positions if i == axis else 0, 0) for i in range(x.ndim)])
    return self._map(lambda x, _, axis: pad(x, axis))

  def logical_axes(self, positions: str = "length") -> "Memory":
    """The names of its axes, a tuple in the place of each array."""
    layers: Any = ("layers", "batch", positions, None)
    key_values: Any = ("layers", None, "batch", None, None)
    if isinstance(self.layers, KeyValues):
      layers = KeyValues(key_values, key_values)
    optional = lambda array, axes: None if array is None else axes
    others: Any = (("batch", "length"), optional(self.position_keys, ("layers", None, None, None)),
                   optional(self.places, ("batch", None)))
    return Memory(layers, *others)

  def _map(self, function: Callable[[jax.Array, int, int | None], jax.Array]) -> "Memory":
    """Applies a function of (array, its axis of rows, its axis of positions, if any) to all but the position keys."""
    rows = 2 if isinstance(self.layers, KeyValues) else 1
    return self.replace(layers=jax.tree.map(lambda x: function(x, rows, rows + 1), self.layers),
                        segment_ids=function(self.segment_ids, 0, 1),
                        places=None if self.places is None else function(self.places, 0, None))


def map_memories(function: Callable[[Memory], Any], tree: Any) -> Any:
  """Applies a function to every Memory of a tree: an objective may have several."""
  return jax.tree.map(function, tree, is_leaf=lambda x: isinstance(x, Memory))


def split_rows(x: jax.Array, axis: int, parts: int) -> jax.Array:
  """[..., B, ...] -> [parts, ..., B / parts, ...] along `axis`; rows i, i + parts, ... stay on their devices."""
  x = x.reshape(*x.shape[:axis], x.shape[axis] // parts, parts, *x.shape[axis + 1:])
  return jnp.moveaxis(x, axis + 1, 0)


def join_rows(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of split_rows."""
  x = jnp.moveaxis(x, 0, axis + 1)
  return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2:])  # Also of no positions.


@flax.struct.dataclass
class RingKeyValues:
  """Keys (rotary: rotated by their slot) and values of the last W positions: position p lies in slot p mod W.

  Contiguous per head, [B, G, W, K]. Axes B and G of size 1 are left out, or XLA on CPU copies the whole ring: a step of
  12 layers of width 512 takes 4.4 ms, and 8.2 ms with them.
  """

  keys: jax.Array | Rows
  values: jax.Array | Rows


@flax.struct.dataclass
class StepConstants:
  """What a layer makes of its parameters, once, for all steps of decoding."""

  kernels: tuple[Kernel, ...]  # [D, H + 2 G, K], queries, keys and values: one product in place of three, if it may be.
  # [G, W, K], the projected R of the distances W - 1, ..., 0; rotary: None.
  position_keys: jax.Array | Rows | None = None


class Cache(flax.struct.PyTreeNode):
  """The memory while decoding: a ring of the last W positions, the next of which is `index`, for all rows alike.

  Layers are a list, or one whose leaves have a leading axis N where layers are scanned.
  """

  rings: list[RingKeyValues] | RingKeyValues
  constants: list[StepConstants] | StepConstants
  segment_ids: jax.Array  # [B, W]
  index: jax.Array  # []
  places: jax.Array | None = None  # As those of a Memory.
  kernels: Any = None  # What steps use in the places of parameters, as `parameters.for_steps` makes it.

  @property
  def window(self) -> int:
    return self.segment_ids.shape[1]

  def take(self, numbers: jax.Array) -> "Cache":
    """The rows of these numbers, as many as there are; one may come several times."""
    lead = 0 if isinstance(self.rings, list) else 1  # The axis of scanned layers.

    def rows(ring: jax.Array) -> jax.Array:
      ring = jnp.expand_dims(ring, lead) if len(self.segment_ids) == 1 else ring
      taken = jnp.take(ring, numbers, lead)
      return jnp.squeeze(taken, lead) if len(numbers) == 1 else taken

    return self.replace(rings=jax.tree.map(rows, self.rings), segment_ids=self.segment_ids[numbers],
                        places=None if self.places is None else self.places[numbers])

  def after(self, new: Any, count: jax.Array) -> "Cache":
    """The cache of one row behind the first `count` of the positions of which `new` has the keys and values.

    They are text, which leaves the places of pictures as they are.
    """
    most = jax.tree.leaves(new)[0].shape[-2]
    slots, comes = (self.index + jnp.arange(most)) % self.window, jnp.arange(most) < count
    put = lambda ring, rows: ring.at[..., slots, :].set(jnp.where(comes[:, None], rows, ring[..., slots, :]))
    return self.replace(rings=jax.tree.map(put, self.rings, new), index=self.index + count,
                        segment_ids=self.segment_ids.at[:, slots].set(
                            jnp.where(comes, 1, self.segment_ids[:, slots])))

  def insert(self, row: int | jax.Array, other: "Cache") -> "Cache":
    """Puts the only row of another cache, which must have come to the same index, in the place of a row of this one.

    Raises:
      ValueError: if the two differ in their window, or `other` has several rows.
    """
    if other.segment_ids.shape != (1, self.window):
      raise ValueError(f"a row of window {self.window} is wanted, and there are {other.segment_ids.shape}")
    if len(self.segment_ids) == 1:
      return self.replace(rings=other.rings, segment_ids=other.segment_ids, places=other.places)
    lead = 0 if isinstance(self.rings, list) else 1  # The axis of scanned layers.

    def put(ring, new):
      return jax.lax.dynamic_update_slice_in_dim(ring, new.reshape(*ring.shape[:lead], 1, *ring.shape[lead + 1:]),
                                                 row, lead)

    return self.replace(rings=jax.tree.map(put, self.rings, other.rings),
                        segment_ids=self.segment_ids.at[row].set(other.segment_ids[0]),
                        places=jax.tree.map(lambda rows, new: rows.at[row].set(new[0]), self.places, other.places))
