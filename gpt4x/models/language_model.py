"""LanguageModel: all that a loop, an evaluation or a decoder ever sees of a model."""

from typing import Any, Mapping

import flax.core
from flax import traverse_util
from flax.linen import partitioning as nn_partitioning
import gin
import jax
import jax.numpy as jnp

from gpt4x import objectives
from gpt4x.models.attention import KeyValues
from gpt4x.models.config import TransformerConfig
from gpt4x.models.transformer_xl import Cache, Memory, TransformerXL

Params = Any
Batch = Mapping[str, jax.Array]


@gin.configurable
class LanguageModel:
  """A Transformer-XL language model as pure functions of its parameters."""

  def __init__(self, config: TransformerConfig, z_loss: float = 0.0):
    self.config = config
    self.z_loss = z_loss
    self.module = TransformerXL(config)

  def init(self, rng: jax.Array) -> Params:
    """Fresh float32 parameters, a nested dict."""
    return self.variables(rng)["params"]

  def param_axes(self) -> Params:
    """The logical axis names of each parameter, a PartitionSpec each; no computation."""
    axes = jax.eval_shape(self.variables, jax.random.key(0))["params_axes"]
    return flax.core.unfreeze(nn_partitioning.get_axis_names(axes))

  def variables(self, rng: jax.Array) -> Mapping[str, Any]:
    """Fresh `params` and, as flax.linen.partitioning has them, their `params_axes`."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    everything = lambda module, *args: module.logits(module(*args)[0])
    return self.module.init(rng, tokens, self.initial_memory(1, 0), method=everything)

  def initial_memory(self, batch_size: int, length: int | None = None, projected: bool = False) -> Memory:
    """An empty memory of `length` (default: the training memory), of keys and values when `projected`."""
    c = self.config
    length = c.memory_length if length is None else length
    zeros = lambda *shape: jnp.zeros((c.num_layers, *shape), c.compute_dtype)
    if projected:
      shape = (c.num_kv_heads, batch_size, length, c.head_dim)
      layers = KeyValues(zeros(*shape), zeros(*shape))
    else:
      layers = zeros(batch_size, length, c.embed_dim)
    return Memory(layers, jnp.zeros((batch_size, length), jnp.int32))

  def project_positions(self, params: Params, memory: Memory, length: int) -> Memory:
    """The memory with what segments of up to `length` tokens need of R, else projected by each: for many small ones."""
    return self.module.apply({"params": params}, memory, length, method="project_positions")

  def logits(self, params: Params, tokens: jax.Array, memory: Memory, segment_ids: jax.Array | None = None,
             prefix: jax.Array | None = None, window: int | None = None, dropout_rng: jax.Array | None = None):
    """Float32 logits [B, L, V] of the token after each of tokens [B, L], and the new memory."""
    return self._forward("logits", params, tokens, memory, segment_ids, prefix, window, dropout_rng)[0]

  def _forward(self, method, params, tokens, memory, segment_ids, prefix, window, dropout_rng):
    """A method of the module on the hidden states, and the new memory; the RouterSums at the paths of their layers."""
    def forward(module):
      hidden, new_memory = module(tokens, memory, segment_ids, prefix, window, deterministic=dropout_rng is None)
      return getattr(module, method)(hidden), new_memory

    rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
    outputs, collected = self.module.apply({"params": params}, method=forward, rngs=rngs, mutable=["router"])
    return outputs, collected.get("router", {})

  def log_probs(self, params: Params, tokens: jax.Array, memory: Memory | None = None,
                segment_ids: jax.Array | None = None) -> tuple[jax.Array, Memory]:
    """Log-probabilities [B, L, V] of the next token; memory None: an empty one of the evaluation length."""
    if memory is None:
      memory = self.initial_memory(tokens.shape[0], self.config.eval_memory_length)
    logits, memory = self.logits(params, tokens, memory, segment_ids)
    return jax.nn.log_softmax(logits), memory

  def loss(self, params: Params, batch: Batch, memory: Memory,
           dropout_rng: jax.Array | None = None) -> tuple[objectives.Sums, Memory]:
    """Sums over a batch of `decoder_*` features [B, L], and the new memory; dropout if there is a key for it."""
    chunk = self.config.loss_chunk if len(self.config.clusters) == 1 else None
    (output, memory), router = self._forward(
        "output" if chunk else "logits", params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
        batch.get("decoder_causal_attention"), None, dropout_rng)
    targets = batch["decoder_target_tokens"], batch["decoder_loss_weights"], self.z_loss
    sums = (objectives.linear_cross_entropy(*output, *targets, chunk) if chunk else
            objectives.cross_entropy(output, *targets))
    weigh = lambda layer: layer.replace(
        balance_loss=layer.balance_loss * sums.weight, z_loss=layer.z_loss * sums.weight)
    router = jax.tree.map(weigh, router, is_leaf=lambda x: isinstance(x, objectives.RouterSums))
    return sums.replace(router=router), memory

  def balance_experts(self, params: Params, router: Any) -> Params:
    """Moves the bias of each expert by `MoEConfig.bias_rate`, up if it had less than an even share of the load.

    That is the balancing without a loss of arXiv:2408.15664. The biases are parameters without a gradient, which
    optimizers leave where they are; `router` is that of the Sums of a whole step.
    """
    moe = self.config.moe
    if not (moe and moe.bias_rate):
      return params
    params = traverse_util.flatten_dict(params)
    for (*layer, _), sums in traverse_util.flatten_dict(router).items():
      missing = jnp.mean(sums.load, -1, keepdims=True) - sums.load
      params[(*layer, "router_bias")] += moe.bias_rate * jnp.sign(missing)
    return traverse_util.unflatten_dict(params)

  def prefill(self, params: Params, tokens: jax.Array, segment_ids: jax.Array, memory: Memory,
              prefix: jax.Array | None = None) -> tuple[jax.Array, Memory]:
    """One segment of a prompt, its memory projected and of the decoding window's length W.

    Returns the logits [B, V] after its last token and the memory; every token sees the W latest, itself included.
    """
    def forward(module):
      hidden, new_memory = module(tokens, memory, segment_ids, prefix, window=memory.length)
      return module.logits(hidden[:, -1:])[:, 0], new_memory

    return self.module.apply({"params": params}, method=forward)

  def start_decoding(self, params: Params, memory: Memory) -> Cache:
    """The ring cache of the W positions that a prefilled memory holds."""
    return self.module.apply({"params": params}, memory, method="ring")

  def decode_step(self, params: Params, tokens: jax.Array, cache: Cache,
                  segment_ids: jax.Array | None = None) -> tuple[jax.Array, Cache]:
    """Tokens [B] -> logits [B, V] of the next and the cache moved on by one, at a cost that does not grow."""
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids

    def forward(module):
      hidden, new_cache = module.step(tokens, cache, segment_ids)
      return module.logits(hidden)[:, 0], new_cache

    return self.module.apply({"params": params}, method=forward)
