"""The parts of a layer beside attention: norms, the MLP, and the embedding/output pairs."""

from typing import Any

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp

from gpt4x.models.config import TransformerConfig
from gpt4x.models.parameters import Kernel, kernel_init, lookup, param, product

constrain = nn_partitioning.with_sharding_constraint


def activate(activation: str, hidden: jax.Array, gate: jax.Array | None) -> jax.Array:
  """The MLP's nonlinearity; SwiGLU is silu(x W_gate) * (x W_in) (arXiv:2002.05202), the others have no gate."""
  if activation == "swiglu":
    return nn.silu(gate) * hidden
  return nn.relu(hidden) if activation == "relu" else nn.gelu(hidden)


def residual_scale(config: TransformerConfig) -> float:
  """Variance of the kernels that write to the residual stream: with pre-norm it grows by 2N such writes."""
  return 1 / (2 * config.num_layers) if config.norm_position == "pre" else 1.0


class Norm(nn.Module):
  """Layer norm (arXiv:1607.06450) or RMS norm (arXiv:1910.07467) over the last axis, in float32."""

  config: TransformerConfig
  kind: str | None = None  # None: the configuration's.
  axis: str = "embed"  # The logical name of the last axis.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, x = x.dtype, x.astype(jnp.float32)
    kind, axes = self.kind or self.config.norm, (self.axis,)
    scale = param(self, "scale", nn.initializers.ones, x.shape[-1:], axes, dtype=jnp.float32)
    if kind == "layer":
      x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.norm_epsilon) * scale
    if kind == "layer":
      x += param(self, "bias", nn.initializers.zeros, x.shape[-1:], axes, dtype=jnp.float32)
    return x.astype(dtype)


class MLP(nn.Module):
  """[B, L, D] -> [B, L, F] -> [B, L, D]."""

  config: TransformerConfig
  mlp_dim: int | None = None  # None: the configuration's.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config

    def project(name, x, features, axes, scale=1.0):
      y = product(x, param(self, name, kernel_init(scale=scale), (x.shape[-1], features), axes, axes[:1]))
      return y + param(self, f"{name}_bias", nn.initializers.zeros, (features,), axes[1:]) if c.mlp_bias else y

    features = self.mlp_dim or c.mlp_dim
    hidden = project("wi", x, features, ("embed", "mlp"))
    gate = project("wi_gate", x, features, ("embed", "mlp")) if c.activation == "swiglu" else None
    hidden = constrain(activate(c.activation, hidden, gate), ("batch", "length", "mlp"))
    return project("wo", hidden, c.embed_dim, ("mlp", "embed"), residual_scale(c))


class Vocabulary(nn.Module):
  """The embedding/output pair: tokens [B, L] -> [B, L, D] and hidden [B, L, D] -> float32 logits [B, L, V].

  With cutoffs the output is the adaptive softmax: the head scores the first cluster's tokens and the other clusters,
  each of which scores its own. Its "logits" are normalised log-probabilities, so that a softmax leaves them as they
  are and one loss serves both. Parameters of which there are several have the number of their table or cluster.
  """

  config: TransformerConfig

  def setup(self):
    c = self.config
    init = nn.initializers.normal(c.embed_dim**-0.5)  # The input is scaled by sqrt(D) to unit variance.
    narrow = "cluster_embed" if c.has_projections else "embed"

    def make(name, init, shapes, axes, summed=()):
      names = [f"{name}_{i}" for i in range(len(shapes))] if len(shapes) > 1 else [name]
      return [param(self, name, init, shape, axes, summed) if shape else None for name, shape in zip(names, shapes)]

    sizes = [(high - low, width) for low, high, width in c.tables]
    self.tables = make("table", init, sizes, ("vocab", narrow), (narrow,))
    kernels = self.tables
    if not c.tie_embeddings:
      kernels = make("output_kernel", init, sizes, ("vocab", narrow), (narrow,))
    if c.code_places:  # Smaller than codes' own: those of pictures that are alike should stay so.
      self.code_places, = make("code_places", nn.initializers.normal(0.2 * c.embed_dim**-0.5),
                               [(c.code_places.size, c.embed_dim)], (None, "embed"))
    zeros = nn.initializers.zeros
    biases = make("output_bias", zeros, [size[:1] for size in sizes], ("vocab",)) if c.output_bias else []
    if len(c.tables) < len(c.clusters):  # Each cluster is a part of the one table.
      kernels = [kernels[0].rows(low, high) for low, high, _ in c.clusters]
      biases = [bias[low:high] for bias in biases for low, high, _ in c.clusters]
    self.kernels, self.biases = kernels, biases or [0.0] * len(c.clusters)
    if c.has_projections:
      self.projections = make("projection", kernel_init(), [(width, c.embed_dim) for _, _, width in c.tables],
                              (narrow, "embed"), (narrow,))
      shapes = [None if tied else (c.embed_dim, width)
                for (_, _, width), tied in zip(c.clusters, c.tied_projections)]
      own = make("output_projection", kernel_init(), shapes, ("embed", narrow), ("embed",))
      shared = self.projections * (len(own) // len(self.projections))
      self.output_projections = [into.transposed() if out is None else out for into, out in zip(shared, own)]
    if tails := len(c.clusters) - 1:
      self.cluster_kernel, = make("cluster_kernel", init, [(tails, c.vocab_embed_dim)], ("clusters", narrow), (narrow,))
      self.cluster_bias: Any = make("cluster_bias", zeros, [(tails,)], ("clusters",))[0] if c.output_bias else 0.0

  def embed(self, tokens: jax.Array, places: jax.Array | None = None, placed: jax.Array | None = None) -> jax.Array:
    """With `places` [B, L, 3] rows of that table are added to those tokens that are `placed` [B, L]."""
    c = self.config

    def rows(i, ids):
      found = lookup(self.tables[i], ids)
      return product(found, self.projections[i]) if c.has_projections else found

    if len(c.tables) == 1:
      embedded = rows(0, tokens)
    else:
      embedded = 0.0
      for i, (low, high, _) in enumerate(c.tables):
        inside = (low <= tokens) & (tokens < high)
        embedded += jnp.where(inside[..., None], rows(i, jnp.clip(tokens - low, 0, high - low - 1)), 0)
    if places is not None:
      table = constrain(self.code_places, (None, None))  # Whole, as `lookup` has its table.
      embedded += jnp.where(placed[..., None], jnp.sum(table[places], -2), 0)
    embedded = embedded * c.embed_dim**0.5 if c.scale_embeddings else embedded
    return constrain(embedded, ("batch", "residual_length", "embed"))

  def unembedding(self, hidden: jax.Array) -> tuple[jax.Array, Kernel, jax.Array | float]:
    """What the logits of a plain softmax are the product of, the projected hidden and the kernel [V, D]; the bias."""
    if self.config.has_projections:
      hidden = product(hidden, self.output_projections[0])
    return hidden, self.kernels[0], self.biases[0]

  def logits(self, hidden: jax.Array) -> jax.Array:
    projected = [hidden] * len(self.kernels)
    if self.config.has_projections:
      projected = [product(hidden, projection) for projection in self.output_projections]
    head, *tails = [product(x, kernel, jnp.float32) + bias
                    for x, kernel, bias in zip(projected, self.kernels, self.biases)]
    if not tails:
      return head
    clusters = product(projected[0], self.cluster_kernel, jnp.float32) + self.cluster_bias
    head = jax.nn.log_softmax(jnp.concatenate([head, clusters], -1))
    first = self.config.clusters[0][1]
    parts = [head[..., first + i, None] + jax.nn.log_softmax(tail) for i, tail in enumerate(tails)]
    return jnp.concatenate([head[..., :first], *parts], -1)
