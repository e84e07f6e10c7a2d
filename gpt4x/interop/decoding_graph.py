"""A decoder as one function of tokens and a cache that is an explicit value, written once for all formats.

What it is computed with is given to it: `ops` has the names of numpy, and the few products and norms for which a format
has words of its own. With ONNX's it makes a graph, with JAX's it is traced.

The cache is a ring: position p lies in slot p mod W. The function reads it and returns the keys and values of the L new
tokens, which the caller puts into slots (index + i) mod W: no step copies the ring. Scores of the ring's slots and of
the new tokens lie side by side, [W | L], and so do the distances that decide what sees what.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpt4x.interop.decoding_inputs import Inputs, Outputs
from gpt4x.interop.decoding_weights import Weight
from gpt4x.models.config import TransformerConfig
from gpt4x.models.flash import MASKED


class _Places(NamedTuple):
  """What all layers share in one call."""

  mask: Any  # [B, 1, 1, L, W + L], added to scores.
  real: Any  # [B, L, 1], False for padding.
  columns: Any  # [L, W + L], where each score by position lies in a flattened [L, W].
  near: Any  # Sine and cosine, [L, K / 2] each, of rotary positions counted from the ring's slot 0,
  far: Any  # a turn of the ring on,
  stored: Any  # and of the new tokens' slots.
  turned: Any  # [W], True for slots that were written since the ring was last at slot 0.


def run(ops: Any, config: TransformerConfig, window: int, weights: Mapping[str, Weight], inputs: Inputs) -> Outputs:
  """The logits after L tokens, at most W of them, and what they add to the cache."""
  places = _places(ops, config, window, inputs)
  x = _embed(ops, config, weights, inputs.tokens)
  keys, values = [], []
  for i in range(config.num_layers):
    prefix = f"layers.{i // config.share_layers}."
    own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    x, key, value = _layer(ops, config, window, own, config.is_mixture(i), x, inputs.keys[i], inputs.values[i], places)
    keys.append(key)
    values.append(value)
  x = ops.last(x)
  if config.norm_position == "pre":
    x = _norm(ops, config, weights, "final_norm", x)
  return Outputs(_logits(ops, config, weights, x), keys, values)


def _places(ops: Any, c: TransformerConfig, window: int, inputs: Inputs) -> _Places:
  new, slots = ops.arange(inputs.tokens), np.arange(window, dtype=np.int32)
  rows, columns = ops.reshape(new, (-1, 1)), ops.reshape(new, (1, -1))
  slot = inputs.index % window
  ages = ops.reshape((slot - 1 - slots) % window + 1, (1, -1))  # 1 ... W behind the first new token.
  distance = ops.concatenate([ages + rows, rows - columns], 1)
  attended = [inputs.segment_ids, ops.concatenate([inputs.cache_segment_ids, inputs.segment_ids], 1)]
  if c.empty_memory == "zeros":
    attended = [ops.maximum(ids, 1) for ids in attended]
  alike = ops.expand_dims(attended[0], (2,)) == ops.expand_dims(attended[1], (1,))
  seen = (distance >= 0) & (distance < window) & alike
  near = far = stored = None
  if c.positions == "rotary":
    frequencies = (c.rotary_base ** (-np.arange(0, c.head_dim, 2, dtype=np.float32) / c.head_dim)).astype(np.float32)
    place = slot + rows
    angles = [ops.float32(position) * frequencies for position in (place, place + window, place % window)]
    near, far, stored = ((ops.sin(angle), ops.cos(angle)) for angle in angles)
  column = ops.minimum(ops.maximum(window - 1 - distance, 0), window - 1)
  return _Places(ops.expand_dims(ops.where(seen, np.float32(0), np.float32(MASKED)), (1, 2)),
                 ops.expand_dims(inputs.segment_ids > 0, (2,)), rows * window + column, near, far, stored,
                 slots < slot)


def _layer(ops: Any, c: TransformerConfig, window: int, own: Mapping[str, Weight], mixture: bool, x: Any, keys: Any,
           values: Any, places: _Places) -> tuple[Any, Any, Any]:
  pre = c.norm_position == "pre"
  if c.empty_memory == "zeros":
    x = ops.where(places.real, x, np.float32(0))
  attended, key, value = _attend(ops, c, window, own, _norm(ops, c, own, "attention_norm", x) if pre else x,
                                 keys, values, places)
  x = x + attended
  if not pre:
    x = _norm(ops, c, own, "attention_norm", x)
  normed = _norm(ops, c, own, "mlp_norm", x) if pre else x
  x = x + (_mixture(ops, c, own, normed) if mixture else _mlp(ops, c, own, "mlp", normed))
  return x if pre else _norm(ops, c, own, "mlp_norm", x), key, value


def _attend(ops: Any, c: TransformerConfig, window: int, own: Mapping[str, Weight], x: Any, keys: Any, values: Any,
            places: _Places) -> tuple[Any, Any, Any]:
  h, g, k = c.num_heads, c.num_kv_heads, c.head_dim

  def heads(x, per_key):  # [B, L, ...] -> [B, G, H / G, L, K]
    return ops.transpose(ops.reshape(x, (0, 0, g, per_key, k)), (0, 2, 3, 1, 4))

  projected = ops.product(x, own["project"])
  if c.qkv_bias:
    projected = projected + own["project_bias"]
  query, key, value = ops.split(projected, (h * k, g * k, g * k))
  query, key, value = heads(query, h // g), heads(key, 1), heads(value, 1)
  if c.qk_norm:
    query, key = (ops.norm(one, own[f"{name}_norm"], None, c.norm_epsilon)
                  for one, name in ((query, "query"), (key, "key")))
  turned = lambda x: ops.transpose(x, (0, 1, 2, 4, 3))
  if c.positions == "relative":
    new = turned(key)
    content = query + own["content_bias"]
    scores = ops.concatenate([ops.matmul(content, keys), ops.matmul(content, new)], -1)
    by_distance = ops.product(query, own["position_keys"]) + own["position_bias"]
    scores = scores + ops.take(ops.reshape(by_distance, (0, 0, 0, -1)), places.columns, 3)
  else:
    near = _rotate(ops, c, query, places.near)
    # A key was rotated by its slot, so one that lies ahead of the query in the ring is a whole turn behind it.
    ring = ops.where(places.turned, ops.matmul(near, keys), ops.matmul(_rotate(ops, c, query, places.far), keys))
    scores = ops.concatenate([ring, ops.matmul(near, turned(_rotate(ops, c, key, places.near)))], -1)
    new = turned(_rotate(ops, c, key, places.stored))
  weights = ops.softmax(scores + places.mask)
  past, now = ops.cut(weights, window)
  mixed = ops.matmul(past, values) + ops.matmul(now, value)
  return ops.product(ops.reshape(ops.transpose(mixed, (0, 3, 1, 2, 4)), (0, 0, h * k)), own["out"]), new, value


def _rotate(ops: Any, c: TransformerConfig, x: Any, turn: tuple[Any, Any]) -> Any:
  sin, cos = turn
  x1, x2 = ops.split(x, (c.head_dim // 2,) * 2)
  return ops.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)


def _norm(ops: Any, c: TransformerConfig, own: Mapping[str, Weight], name: str, x: Any) -> Any:
  return ops.norm(x, own[f"{name}.scale"], own.get(f"{name}.bias"), c.norm_epsilon)


def _mlp(ops: Any, c: TransformerConfig, own: Mapping[str, Weight], name: str, x: Any) -> Any:
  def project(part, x):
    y = ops.product(x, own[f"{name}.{part}"])
    return y + own[f"{name}.{part}_bias"] if f"{name}.{part}_bias" in own else y

  hidden = project("wi", x)
  return project("wo", _activate(ops, c, hidden, project("wi_gate", x) if c.activation == "swiglu" else None))


def _activate(ops: Any, c: TransformerConfig, hidden: Any, gate: Any) -> Any:
  if c.activation == "swiglu":
    return gate * ops.sigmoid(gate) * hidden
  return ops.maximum(hidden, np.float32(0)) if c.activation == "relu" else ops.gelu(hidden)


def _mixture(ops: Any, c: TransformerConfig, own: Mapping[str, Weight], x: Any) -> Any:
  """All experts of every token, weighted; those that a token is not sent to with 0."""
  m = c.moe
  scores = ops.product(x, own["moe.router"])
  scores = ops.softmax(scores) if m.scores == "softmax" else ops.sigmoid(scores)
  ranks, experts = scores, np.arange(m.num_experts, dtype=np.int32)
  if "moe.router_bias" in own:
    ranks = ranks + own["moe.router_bias"]
  chosen = None
  for _ in range(m.experts_per_token):
    one = ops.expand_dims(ops.argmax(ranks), (2,)) == experts
    chosen = one if chosen is None else chosen | one
    ranks = ops.where(one, np.float32(-np.inf), ranks)
  weights = ops.where(chosen, scores, np.float32(0))  # [B, L, E]
  if m.normalize_weights:
    weights = weights / ops.sum(weights)
  rows = ops.expand_dims(x, (1,))  # [B, 1, L, D] by [E, D, F]
  gate = ops.matmul(rows, own["moe.wi_gate"]) if c.activation == "swiglu" else None
  made = ops.matmul(_activate(ops, c, ops.matmul(rows, own["moe.wi"]), gate), own["moe.wo"])  # [B, E, L, D]
  mixed = ops.matmul(ops.expand_dims(weights, (2,)), ops.transpose(made, (0, 2, 1, 3)))  # [B, L, 1, D]
  y = ops.reshape(mixed, (0, 0, c.embed_dim))
  return y + _mlp(ops, c, own, "moe.shared", x) if m.num_shared_experts else y


def _embed(ops: Any, c: TransformerConfig, weights: Mapping[str, Weight], tokens: Any) -> Any:
  own = {name.removeprefix("vocabulary."): weight for name, weight in weights.items()}

  def rows(i, ids):
    number = f"_{i}" if len(c.tables) > 1 else ""
    found = ops.lookup(own[f"table{number}"], ids)
    return ops.product(found, own[f"projection{number}"]) if c.has_projections else found

  scale = np.float32(c.embed_dim**0.5 if c.scale_embeddings else 1)
  if len(c.tables) == 1:
    return rows(0, tokens) * scale
  embedded = None
  for i, (low, high, _) in enumerate(c.tables):
    inside = ops.expand_dims((tokens >= low) & (tokens < high), (2,))
    part = ops.where(inside, rows(i, ops.minimum(ops.maximum(tokens - low, 0), high - low - 1)), np.float32(0))
    embedded = part if embedded is None else embedded + part
  return embedded * scale


def _logits(ops: Any, c: TransformerConfig, weights: Mapping[str, Weight], hidden: Any) -> Any:
  own = {name.removeprefix("vocabulary."): weight for name, weight in weights.items()}
  count, tables = len(c.clusters), len(c.tables)
  numbered = lambda name, i: own.get(f"{name}_{i}" if tables > 1 else name)

  def scores(i):
    x, place = hidden, min(i, tables - 1)
    if c.has_projections:
      tied = c.tied_projections[i]
      own_name = f"output_projection_{i}" if count > 1 else "output_projection"
      x = ops.product(x, numbered("projection", place) if tied else own[own_name], transposed=tied)
    kernel, bias = numbered("table" if c.tie_embeddings else "output_kernel", place), numbered("output_bias", place)
    if tables < count:
      low, high, _ = c.clusters[i]
      kernel, bias = ops.rows(kernel, low, high), bias if bias is None else ops.rows(bias, low, high)
    y = ops.product(x, kernel, transposed=True)
    return x, y if bias is None else y + bias

  (x, head), *tails = [scores(i) for i in range(count)]
  if not tails:
    return head
  clusters = ops.product(x, own["cluster_kernel"], transposed=True)
  if "cluster_bias" in own:
    clusters = clusters + own["cluster_bias"]
  first = c.clusters[0][1]
  words, *others = ops.split(ops.log_softmax(ops.concatenate([head, clusters], -1)), (first, *[1] * len(tails)))
  return ops.concatenate([words, *(one + ops.log_softmax(tail) for one, (_, tail) in zip(others, tails))], -1)
