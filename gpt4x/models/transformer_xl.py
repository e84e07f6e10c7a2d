"""The Transformer-XL stack (arXiv:1901.02860): layers scanned over their parameters and over the memory."""

from collections.abc import Collection
import functools
import re
from typing import Any

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp

from gpt4x.errors import UserError
from gpt4x.models import attention
from gpt4x.models.config import TransformerConfig
from gpt4x.models.layer import (
  Ahead,
  Block,
  CAPTURES,
  Layer,
  Operation,
  ProjectMemory,
  ProjectPositions,
  run_layers,
  Segment,
  StartRing,
  Step,
  unstack,
)
from gpt4x.models.layers import constrain, Norm, Vocabulary
from gpt4x.models.masks import Mask
from gpt4x.models.memory import Cache, KeyValues, Memory

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "dots_no_batch": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
}


class TransformerXL(nn.Module):
  """tokens [B, L] and memory -> hidden [B, L, D] and the memory L positions on; `logits` for the rest."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    self.vocabulary = Vocabulary(c)
    self.dropout = nn.Dropout(c.dropout_rate)
    if c.positions == "relative" and not c.untie_biases:
      self.biases = attention.position_biases(self, c)
    if c.norm_position == "pre":
      self.final_norm = Norm(c)
    layer = Layer
    if c.remat != "none":
      layer = nn_partitioning.remat(layer, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan_layers)
    if c.scan_layers:
      scan = functools.partial(
          nn_partitioning.scan_with_axes, variable_axes={"params": 0, "router": 0},
          split_rngs={"params": True, "dropout": True}, in_axes=(0, nn.broadcast), length=c.num_layers // c.period,
          axis_name="layers")
      self.layers: Any = scan(layer)(c, c.is_mixture(0)) if c.period == 1 else scan(Block)(c, layer)
    else:
      self.layers = [layer(c, c.is_mixture(i)) for i in range(c.num_layers // c.share_layers)]

  def __call__(self, tokens: jax.Array, memory: Memory, segment_ids: jax.Array | None = None,
               prefix: jax.Array | None = None, window: int | None = None, deterministic: bool = True,
               capture: Collection[str] = ()) -> tuple[jax.Array, Memory, dict[str, jax.Array]]:
    """Runs a segment.

    Args:
      tokens: [B, L] int32.
      memory: of any length M, zero included; the memory returned has the same length and kind.
      segment_ids: [B, L], the document each token belongs to, 0 for padding; None: one document, 1.
      prefix: [B, L], above 0 where tokens of a document see each other in both directions.
      window: no token sees further back than this many positions, itself included.
      deterministic: no dropout.
      capture: names of activations that are wanted: 'embedding', 'final', or 'layers.I.NAME', NAME one of CAPTURES.

    Returns:
      hidden [B, L, D], the new Memory, and the captured activations, [B, L, D] each.
    """
    c = self.config
    wanted = self.wanted(capture)
    length, total = tokens.shape[1], memory.length + tokens.shape[1]
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
    key_segments = jnp.concatenate([memory.segment_ids, segment_ids], 1)
    if window is None and c.same_length and memory.length:
      window = memory.length
    relative, position_keys = None, memory.position_keys
    if position_keys is not None and prefix is None and position_keys.shape[2] > total:
      position_keys = position_keys[:, :, -total - 1:]
    elif c.positions == "relative":
      # One column more than there are keys (see relative_shift); a prefix looks ahead, at negative distances.
      columns = total + max(1, length - 1 if prefix is not None else 1)
      relative = attention.relative_positions(c, jnp.arange(total - 1, total - 1 - columns, -1))
      relative = self.dropout(relative, deterministic=deterministic)
    mask = Mask(self.attended(segment_ids), self.attended(key_segments), prefix, window)
    x, places = self.embed(tokens, memory.places)
    embedding = x = self.dropout(x, deterministic=deterministic)
    x, (layers, captured) = self.run(x, (memory.layers, position_keys), Segment(
        attention.prepare(c, mask), segment_ids > 0, self.shared_biases(), relative, deterministic,
        frozenset(point for _, point in wanted.values())))
    x = self.last(x, deterministic)
    found = {name: captured[point][layer] for name, (layer, point) in wanted.items()}
    found |= {name: one for name, one in (("embedding", embedding), ("final", x)) if name in capture}
    if isinstance(memory.layers, KeyValues):  # All layers' at once: within them the memory is only read.
      layers = jax.tree.map(lambda old, new: jnp.concatenate([old, new], 3)[:, :, :, length:], memory.layers, layers)
    memory = memory.replace(layers=jax.lax.stop_gradient(layers), segment_ids=key_segments[:, length:],
                            places=places)
    return x, memory, found

  def embed(self, tokens: jax.Array, places: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """tokens [B, L] -> [B, L, D], and how far the last picture has come behind them."""
    if self.config.code_places is None:
      return self.vocabulary.embed(tokens), None
    rows, placed, places = self.config.code_places.find(tokens, places)
    return self.vocabulary.embed(tokens, rows, placed), places

  def wanted(self, capture: Collection[str]) -> dict[str, tuple[int, str]]:
    """(layer, point) of each captured activation of a layer; raises UserError for a name that there is not."""
    found = {}
    for name in set(capture) - {"embedding", "final"}:
      match = re.fullmatch(rf"layers\.(\d+)\.({'|'.join(CAPTURES)})", name)
      if not match or int(match[1]) >= self.config.num_layers:
        raise UserError(f"there is no activation {name!r} to capture: use embedding, final or layers.I.NAME, I below"
                        f" {self.config.num_layers} and NAME one of {', '.join(CAPTURES)}")
      found[name] = int(match[1]), match[2]
    return found

  def project_positions(self, memory: Memory, length: int) -> Memory:
    """The memory with its position keys, for segments of up to `length` tokens that leave out dropout and prefixes."""
    if self.config.positions != "relative":
      return memory
    relative = attention.relative_positions(self.config, jnp.arange(memory.length + length - 1, -2, -1))
    nothing = jnp.zeros((), self.config.compute_dtype)
    return memory.replace(position_keys=self.run(nothing, None, ProjectPositions(relative))[1])

  def project_memory(self, memory: Memory) -> Memory:
    """A memory of layers' inputs as one of KeyValues, which gives the same logits."""
    nothing = jnp.zeros((), self.config.compute_dtype)
    return memory.replace(layers=self.run(nothing, memory.layers, ProjectMemory())[1])

  def step(self, tokens: jax.Array, cache: Cache, segment_ids: jax.Array,
           capture: Collection[str] = ()) -> tuple[jax.Array, Cache, dict[str, jax.Array]]:
    """Decodes one position: tokens and segment_ids [B] -> hidden [B, 1, D], the cache one position on, and the
    captured activations, [B, 1, D] each."""
    wanted = self.wanted(capture)
    slots = cache.segment_ids.at[:, cache.index % cache.window].set(segment_ids)
    layers: Any = cache.rings, cache.constants
    layers = list(zip(*layers, strict=True)) if isinstance(cache.rings, list) else layers
    x, places = self.embed(tokens[:, None], cache.places)
    embedding = x
    x, news = self.run(x, layers, Step(
        mask=self.attended(slots) == segment_ids[:, None], real=segment_ids[:, None] > 0, biases=self.shared_biases(),
        index=cache.index, capture=frozenset(point for _, point in wanted.values())))
    rings, captured = map(list, zip(*news)) if isinstance(news, list) else news
    x = self.last(x, True)
    found = {name: captured[layer][point] if isinstance(captured, list) else captured[point][layer]
             for name, (layer, point) in wanted.items()}
    found |= {name: one for name, one in (("embedding", embedding), ("final", x)) if name in capture}
    return x, cache.replace(rings=rings, segment_ids=slots, index=cache.index + 1, places=places), found

  def ahead(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Any]:
    """tokens [1, k] of one row, as `step` would decode one after the other: hidden [1, k, D], and what the cache would
    get, with which `Cache.after` goes on."""
    layers: Any = cache.rings, cache.constants
    layers = list(zip(*layers, strict=True)) if isinstance(cache.rings, list) else layers
    window = cache.window
    back = 1 + (cache.index - 1 - jnp.arange(window)) % window  # Of each slot from the first of the tokens.
    seen = (back + jnp.arange(tokens.shape[1])[:, None] < window) & (self.attended(cache.segment_ids) == 1)
    x, new = self.run(self.embed(tokens, cache.places)[0], layers, Ahead(seen, self.shared_biases(), cache.index))
    return self.last(x, True), new

  def ring(self, memory: Memory, index: int | jax.Array) -> Cache:
    """Turns a memory of KeyValues into the decoding cache of the same W positions, the next of which is `index`."""
    if not isinstance(index, int) or index:
      memory = memory.roll(index % memory.length)  # The oldest position comes to the slot that is written next.
    # A step would copy all of what is stacked: where layers are not scanned, they stay apart.
    past = memory.layers if self.config.scan_layers else unstack(memory.layers, self.config.num_layers)
    _, layers = self.run(jnp.zeros((), self.config.compute_dtype), past, StartRing())
    rings, constants = map(list, zip(*layers)) if isinstance(layers, list) else layers
    return Cache(rings, constants, memory.segment_ids, jnp.asarray(index, jnp.int32), memory.places)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """hidden [B, L, D] -> float32 logits [B, L, V]."""
    return constrain(self.vocabulary.logits(hidden), ("batch", "length", "vocab"))

  def unembedding(self, hidden: jax.Array):
    """See `Vocabulary.unembedding`."""
    return self.vocabulary.unembedding(hidden)

  def run(self, x: jax.Array, past: Any, operation: Operation) -> tuple[jax.Array, Any]:
    """An operation on every layer in turn; leaves of past and new have a leading axis N (or see run_layers)."""
    n, period = self.config.num_layers, self.config.period
    if not self.config.scan_layers:
      return run_layers([self.layers[i // self.config.share_layers] for i in range(n)], x, past, operation)
    if period == 1:
      return self.layers(x, past, operation)
    blocks = jax.tree.map(lambda leaf: leaf.reshape(n // period, period, *leaf.shape[1:]), past)
    x, blocks = self.layers(x, blocks, operation)
    return x, jax.tree.map(lambda leaf: leaf.reshape(n, *leaf.shape[2:]), blocks)

  def attended(self, segment_ids: jax.Array) -> jax.Array:
    """The document that attends to each position: to zeros in empty ones, if the configuration says so, the first."""
    return jnp.maximum(segment_ids, 1) if self.config.empty_memory == "zeros" else segment_ids

  def shared_biases(self):
    return self.biases if self.config.positions == "relative" and not self.config.untie_biases else None

  def last(self, x: jax.Array, deterministic: bool) -> jax.Array:
    x = self.final_norm(x) if self.config.norm_position == "pre" else x
    return self.dropout(x, deterministic=deterministic)
