"""A Transformer-XL in NumPy and float64, written from the paper (arXiv:1901.02860): what the model is held against.

Slow and literal on purpose. Every distance between a query and a key is an entry of a table [L, T], every mask is a
table of booleans, and no code is shared with gpt4x.models. It knows no dropout and no gradients: gradients are checked
by finite differences, which float64 makes sharp.
"""

import dataclasses

import numpy as np


def log_probs(params, config, tokens, segment_ids=None, memory=None, memory_length=None, causal_attention=None):
  """Log-probabilities of the token that follows each of `tokens`.

  Args:
    params: the model's nested dict of arrays, its layers stacked or apart.
    config: a TransformerConfig.
    tokens: [B, L] ids.
    segment_ids: [B, L] documents, 0 for padding; None makes it all one document.
    memory: (hidden [N, B, M, D], segment_ids [B, M]); None starts an empty one of `memory_length`.
    memory_length: None takes config.memory_length.
    causal_attention: [B, L], 1 on the prefixes inside which attention looks both ways; None is causal throughout.

  Returns:
    Log-probabilities [B, L, V] and the memory after the segment, of the length it had.
  """
  tokens = np.asarray(tokens)
  rows, length = tokens.shape
  if segment_ids is None:
    segment_ids = np.ones((rows, length), np.int64)
  if memory is None:
    memory_length = config.memory_length if memory_length is None else memory_length
    memory = empty_memory(config, rows, memory_length)
  memory_hidden, memory_ids = memory
  memory_length = memory_ids.shape[1]
  true_ids = np.concatenate([memory_ids, segment_ids], axis=1)

  there = np.ones((rows, length, 1))
  if config.empty_memory == "zeros":  # What is not there are zeros, in every layer, of the first document.
    there = (segment_ids > 0)[..., None]
    segment_ids, memory_ids = np.maximum(segment_ids, 1), np.maximum(memory_ids, 1)
  key_ids = np.concatenate([memory_ids, segment_ids], axis=1)
  query_position = memory_length + np.arange(length)
  key_position = np.arange(memory_length + length)
  mask = attention_mask(config, query_position, key_position, segment_ids, key_ids, causal_attention)

  x = embed(params["vocabulary"], config, tokens)
  new_hidden = []
  for index in range(config.num_layers):
    layer = _layer_params(params, index)
    x = x * there
    context = np.concatenate([memory_hidden[index], x], axis=1)
    new_hidden.append(context[:, length:])
    biases = layer["attention"] if config.untie_biases else params
    attend = lambda queries, keys: _attention(
        layer["attention"], biases, config, queries, keys, query_position, key_position, mask)
    feed_forward = lambda x: mixture(layer["moe"], config, x)[0] if "moe" in layer else _mlp(layer["mlp"], config, x)
    if config.norm_position == "post":
      x = _norm(layer["attention_norm"], config, x + attend(x, context))
      x = _norm(layer["mlp_norm"], config, x + feed_forward(x))
    else:
      normed = _norm(layer["attention_norm"], config, context)
      x = x + attend(normed[:, memory_length:], normed)
      x = x + feed_forward(_norm(layer["mlp_norm"], config, x))
  if config.norm_position == "pre":
    x = _norm(params["final_norm"], config, x)
  return output_log_probs(params["vocabulary"], config, x), (np.stack(new_hidden), true_ids[:, length:])


def empty_memory(config, rows, memory_length):
  hidden = np.zeros((config.num_layers, rows, memory_length, config.embed_dim))
  return hidden, np.zeros((rows, memory_length), np.int64)


def attention_mask(config, query_position, key_position, query_ids, key_ids, causal_attention=None):
  """Whether each query sees each key, [B, L, T]."""
  distance = query_position[:, None] - key_position[None, :]
  allowed = distance >= 0
  if config.same_length:
    allowed = allowed & (distance < query_position[0])  # The first query has the whole memory, M keys, before it.
  allowed = np.broadcast_to(allowed, (len(query_ids), *allowed.shape))
  if causal_attention is not None:
    query_prefix = np.asarray(causal_attention, bool)
    memory_prefix = np.zeros((len(query_ids), query_position[0]), bool)  # Memory is past: it belongs to no prefix.
    key_prefix = np.concatenate([memory_prefix, query_prefix], axis=1)
    allowed = allowed | (query_prefix[:, :, None] & key_prefix[:, None, :])
  same_document = (query_ids[:, :, None] == key_ids[:, None, :]) & (query_ids[:, :, None] > 0)
  return allowed & same_document


def attention_scores(layer, biases, config, queries, keys, query_position, key_position):
  """Scores [B, H, L, T] before the mask: terms (a) to (d) of the paper's section 3.3, or rotary's dot products."""
  share = config.num_heads // config.num_kv_heads
  for_every_head = lambda projected: np.repeat(projected, share, axis=2)  # Query head h takes kv head h // share.
  q = np.einsum("bld,dhk->blhk", queries, _f64(layer["query"]))
  k = np.einsum("btd,dgk->btgk", keys, _f64(layer["key"]))
  if config.qkv_bias:
    q, k = q + _f64(layer["query_bias"]), k + _f64(layer["key_bias"])
  if config.qk_norm:
    rms = dataclasses.replace(config, norm="rms")
    q, k = _norm(layer["query_norm"], rms, q), _norm(layer["key_norm"], rms, k)
  k = for_every_head(k)
  if config.positions == "rotary":
    q = _rotate(q, query_position, config.rotary_base)
    k = _rotate(k, key_position, config.rotary_base)
    scores = np.einsum("blhk,bthk->bhlt", q, k)
  else:
    distance = query_position[:, None] - key_position[None, :]
    if config.clamp_length is not None:
      distance = np.clip(distance, -config.clamp_length, config.clamp_length)
    encoding = sinusoids(distance, config.embed_dim)
    r = for_every_head(np.einsum("ltd,dgk->ltgk", encoding, _f64(layer["relative_key"])))
    u, v = _f64(biases["content_bias"]), _f64(biases["position_bias"])
    scores = np.einsum("blhk,bthk->bhlt", q + u, k) + np.einsum("blhk,lthk->bhlt", q + v, r)
  return scores / np.sqrt(config.head_dim)


def sinusoids(distance, width):
  """R: [sin(d f_0), sin(d f_1), ..., cos(d f_0), cos(d f_1), ...] on a new last axis."""
  frequency = 10_000.0 ** (-2 * np.arange(width // 2) / width)
  angle = distance[..., None] * frequency
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def _rotate(x, position, base):
  """Turns each pair (x[i], x[i + K/2]) of [B, T, H, K] by position * base^(-2i/K)."""
  half = x.shape[-1] // 2
  angle = position[:, None, None] * base ** (-np.arange(half) / half)
  x1, x2 = x[..., :half], x[..., half:]
  return np.concatenate([x1 * np.cos(angle) - x2 * np.sin(angle), x2 * np.cos(angle) + x1 * np.sin(angle)], axis=-1)


def _attention(layer, biases, config, queries, keys, query_position, key_position, mask):
  scores = attention_scores(layer, biases, config, queries, keys, query_position, key_position)
  scores = np.where(mask[:, None], scores, -np.inf)
  highest = scores.max(axis=-1, keepdims=True)
  weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
  total = weights.sum(axis=-1, keepdims=True)
  probabilities = weights / np.where(total > 0, total, 1)  # A query that sees nothing attends to nothing.
  values = np.einsum("btd,dgk->btgk", keys, _f64(layer["value"]))
  values = values + _f64(layer["value_bias"]) if config.qkv_bias else values
  values = np.repeat(values, config.num_heads // config.num_kv_heads, axis=2)
  attended = np.einsum("bhlt,bthk->blhk", probabilities, values)
  return np.einsum("blhk,hkd->bld", attended, _f64(layer["out"]))


def _mlp(mlp, config, x):
  bias = lambda name: _f64(mlp[name]) if config.mlp_bias else 0.0
  hidden = x @ _f64(mlp["wi"]) + bias("wi_bias")
  if config.activation == "relu":
    hidden = np.maximum(hidden, 0)
  elif config.activation == "gelu":
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
  else:
    gate = x @ _f64(mlp["wi_gate"]) + bias("wi_gate_bias")
    hidden = gate / (1 + np.exp(-gate)) * hidden
  return hidden @ _f64(mlp["wo"]) + bias("wo_bias")


def mixture(layer, config, x, segment_ids=None, capacity=None):
  """A mixture of experts, a token and an expert at a time; padding, where segment_ids is 0, goes to none.

  Returns:
    The output [B, L, D] and what the router did: the balancing loss and z-loss (without their coefficients), how often
    each expert was chosen, and how often by a token that it had no room for.
  """
  moe = config.moe
  rows, length, _ = x.shape
  logits = x @ _f64(layer["router"])
  softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  scores = softmax if moe.scores == "softmax" else 1 / (1 + np.exp(-logits))
  ranks = scores + (_f64(layer["router_bias"]) if moe.bias_rate else 0)
  experts_config = dataclasses.replace(config, mlp_bias=False)
  output, load, dropped, tokens = np.zeros(x.shape), np.zeros(moe.num_experts, int), 0, []
  for row in range(rows):
    taken = np.zeros(moe.num_experts, int)
    for choice in range(moe.experts_per_token):
      for position in range(length):
        if segment_ids is not None and segment_ids[row, position] == 0:
          continue
        score = scores[row, position]
        chosen = np.argsort(-ranks[row, position], kind="stable")[:moe.experts_per_token]
        expert = chosen[choice]
        load[expert] += 1
        tokens += [(row, position)] if choice == 0 else []
        if capacity is not None and taken[expert] == capacity:
          dropped += 1
          continue
        taken[expert] += 1
        weight = score[expert] / (score[chosen].sum() if moe.normalize_weights else 1)
        mlp = {name: layer[name][expert] for name in ("wi", "wi_gate", "wo") if name in layer}
        output[row, position] += weight * _mlp(mlp, experts_config, x[row, position])
  if moe.num_shared_experts:
    output += _mlp(layer["shared"], config, x)
  probabilities = np.mean([scores[token] / scores[token].sum() for token in tokens], axis=0)
  balance_loss = moe.num_experts * np.sum(load / load.sum() * probabilities)
  z_loss = np.mean([np.log(np.exp(logits[token]).sum()) ** 2 for token in tokens])
  return output, dict(balance_loss=balance_loss, z_loss=z_loss, load=load, dropped=dropped)


def _norm(norm, config, x):
  if config.norm == "rms":
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_epsilon) * _f64(norm["scale"])
  centred = x - x.mean(axis=-1, keepdims=True)
  variance = np.mean(centred**2, axis=-1, keepdims=True)
  return centred / np.sqrt(variance + config.norm_epsilon) * _f64(norm["scale"]) + _f64(norm["bias"])


def embed(vocabulary, config, tokens):
  ends = _ends(config) if config.adaptive_divisor > 1 else (0, config.vocab_size)
  x = np.zeros((*tokens.shape, config.embed_dim))
  for i, (start, end) in enumerate(zip(ends, ends[1:])):
    suffix = f"_{i}" if len(ends) > 2 else ""
    inside = (tokens >= start) & (tokens < end)
    rows = _f64(vocabulary["table" + suffix])[tokens[inside] - start]
    x[inside] = rows @ _f64(vocabulary["projection" + suffix]) if _is_projected(config) else rows
  return x * np.sqrt(config.embed_dim) if config.scale_embeddings else x


def output_log_probs(vocabulary, config, x):
  """Hidden [B, L, D] -> log-probabilities [B, L, V]."""
  ends = _ends(config)
  kernel_name = "table" if config.tie_embeddings else "output_kernel"
  several_tables = config.adaptive_divisor > 1 and len(ends) > 2

  def of_cluster(name, i):
    if several_tables:
      return _f64(vocabulary[f"{name}_{i}"])
    return _f64(vocabulary[name])[ends[i]:ends[i + 1]]

  def project(i):
    if not _is_projected(config):
      return x
    tied = config.tie_projections if isinstance(config.tie_projections, bool) else config.tie_projections[i]
    if tied:
      return x @ _f64(vocabulary[f"projection_{i}" if several_tables else "projection"]).T
    return x @ _f64(vocabulary[f"output_projection_{i}" if len(ends) > 2 else "output_projection"])

  def logits(i):
    bias = of_cluster("output_bias", i) if config.output_bias else 0.0
    return project(i) @ of_cluster(kernel_name, i).T + bias

  if len(ends) == 2:
    return _log_softmax(logits(0))
  cluster_bias = _f64(vocabulary["cluster_bias"]) if config.output_bias else 0.0
  cluster_logits = project(0) @ _f64(vocabulary["cluster_kernel"]).T + cluster_bias
  head = _log_softmax(np.concatenate([logits(0), cluster_logits], axis=-1))
  first = ends[1]
  parts = [head[..., :first]]
  for i in range(1, len(ends) - 1):
    log_cluster = head[..., first + i - 1]
    parts.append(log_cluster[..., None] + _log_softmax(logits(i)))
  return np.concatenate(parts, axis=-1)


def _ends(config):
  return (0, *config.adaptive_cutoffs, config.vocab_size)


def _is_projected(config):
  return config.adaptive_divisor > 1 or config.vocab_embed_dim != config.embed_dim


def _log_softmax(logits):
  shifted = logits - logits.max(axis=-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _layer_params(params, index):
  if "layers" not in params:
    return params[f"layers_{index}"]
  layers, period = params["layers"], 1
  if "layers_0" in layers:  # Blocks of several layers are stacked.
    period = len(layers)
    layers = layers[f"layers_{index % period}"]
  pick = lambda node: (
      {key: pick(value) for key, value in node.items()} if isinstance(node, dict) else node[index // period])
  return pick(layers)


def _f64(array):
  return np.asarray(array, np.float64)
