"""The parts of a layer beside attention: norms, the MLP, and the embedding/output pairs."""

import functools

import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp

from gpt4x.models.config import TransformerConfig

constrain = nn_partitioning.with_sharding_constraint


def kernel_init(in_axis=0, out_axis=-1, scale: float = 1.0, batch_axis=()):
  return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis)


def activate(activation: str, hidden: jax.Array, gate: jax.Array | None) -> jax.Array:
  """The MLP's nonlinearity; SwiGLU is silu(x W_gate) * (x W_in) (arXiv:2002.05202), the others have no gate."""
  if activation == "swiglu":
    return nn.silu(gate) * hidden
  return nn.relu(hidden) if activation == "relu" else nn.gelu(hidden)


def residual_scale(config: TransformerConfig) -> float:
  """Variance of the kernels that write to the residual stream: with pre-norm it grows by 2N such writes."""
  return 1 / (2 * config.num_layers) if config.norm_position == "pre" else 1.0


def param(module: nn.Module, name: str, init, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
  """A float32 parameter with logical axis names, cast to the compute dtype."""
  value = nn_partitioning.param_with_axes(name, init, shape, jnp.float32, axes=axes, module=module)
  return jnp.asarray(value, module.config.compute_dtype)


class Norm(nn.Module):
  """Layer norm (arXiv:1607.06450) or RMS norm (arXiv:1910.07467) over the last axis, in float32."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, x = x.dtype, x.astype(jnp.float32)
    scale = nn_partitioning.param_with_axes("scale", nn.initializers.ones, x.shape[-1:], jnp.float32, axes=("embed",))
    if self.config.norm == "rms":
      x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.norm_epsilon) * scale
    else:
      bias = nn_partitioning.param_with_axes("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32, axes=("embed",))
      x = x - jnp.mean(x, -1, keepdims=True)
      x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.norm_epsilon) * scale + bias
    return x.astype(dtype)


class MLP(nn.Module):
  """[B, L, D] -> [B, L, F] -> [B, L, D]."""

  config: TransformerConfig
  mlp_dim: int | None = None  # None: the configuration's.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config

    def project(name, x, features, axes, scale=1.0):
      y = x @ param(self, name, kernel_init(scale=scale), (x.shape[-1], features), axes)
      return y + param(self, f"{name}_bias", nn.initializers.zeros, (features,), axes[1:]) if c.mlp_bias else y

    features = self.mlp_dim or c.mlp_dim
    hidden = project("wi", x, features, ("embed", "mlp"))
    gate = project("wi_gate", x, features, ("embed", "mlp")) if c.activation == "swiglu" else None
    hidden = constrain(activate(c.activation, hidden, gate), ("batch", "length", "mlp"))
    return project("wo", hidden, c.embed_dim, ("mlp", "embed"), residual_scale(c))


class Vocabulary(nn.Module):
  """The embedding/output pair: tokens [B, L] -> [B, L, D] and hidden [B, L, D] -> float32 logits [B, L, V].

  With cutoffs it is the adaptive input embedding and the adaptive softmax: cluster i of the vocabulary has tables of
  width D_i and projections between D_i and D. Its "logits" are normalised log-probabilities, so that a softmax leaves
  them as they are and one loss serves both.
  """

  config: TransformerConfig

  def setup(self):
    c = self.config
    init = nn.initializers.normal(c.embed_dim**-0.5)  # The input is scaled by sqrt(D) to unit variance.
    make = functools.partial(param, self)
    bias = lambda name, size: make(name, nn.initializers.zeros, (size,), ("vocab",)) if c.output_bias else 0.0
    if not c.is_adaptive:
      self.table = make("table", init, (c.vocab_size, c.embed_dim), ("vocab", "embed"))
      self.kernel = self.table if c.tie_embeddings else make(
          "output_kernel", init, (c.vocab_size, c.embed_dim), ("vocab", "embed"))
      self.bias = bias("output_bias", c.vocab_size)
      return
    tables, projections, kernels, out_projections, biases = [], [], [], [], []
    for i, (low, high, width) in enumerate(c.clusters):
      tables.append(make(f"table_{i}", init, (high - low, width), ("vocab", "cluster_embed")))
      projections.append(make(f"projection_{i}", kernel_init(), (width, c.embed_dim), ("cluster_embed", "embed")))
      kernels.append(tables[i] if c.tie_embeddings else make(
          f"output_kernel_{i}", init, (high - low, width), ("vocab", "cluster_embed")))
      out_projections.append(projections[i].T if c.tie_projections else make(
          f"output_projection_{i}", kernel_init(), (c.embed_dim, width), ("embed", "cluster_embed")))
      biases.append(bias(f"output_bias_{i}", high - low))
    tails = len(c.clusters) - 1
    self.tables, self.projections, self.kernels = tables, projections, kernels
    self.out_projections, self.biases = out_projections, biases
    self.cluster_kernel = make("cluster_kernel", init, (tails, c.embed_dim), ("clusters", "cluster_embed"))
    self.cluster_bias = make("cluster_bias", nn.initializers.zeros, (tails,), ("clusters",)) if c.output_bias else 0.0

  def embed(self, tokens: jax.Array) -> jax.Array:
    c = self.config
    if not c.is_adaptive:
      # Rows with all of D, for GSPMD would look up the whole batch's tokens on each device that has a part of it.
      embedded = constrain(self.table, ("vocab", None))[tokens]
    else:
      embedded = 0.0
      for (low, high, _), table, projection in zip(c.clusters, self.tables, self.projections):
        inside = (low <= tokens) & (tokens < high)
        rows = table[jnp.clip(tokens - low, 0, high - low - 1)] @ projection
        embedded += jnp.where(inside[..., None], rows, 0)
    return constrain(embedded * c.embed_dim**0.5, ("batch", "length", "embed"))

  def logits(self, hidden: jax.Array) -> jax.Array:
    product = functools.partial(jnp.einsum, "...d,vd->...v", preferred_element_type=jnp.float32)
    if not self.config.is_adaptive:
      return product(hidden, self.kernel) + self.bias
    first, *tails = [hidden @ projection for projection in self.out_projections]
    head = jnp.concatenate(
        [product(first, self.kernels[0]) + self.biases[0], product(first, self.cluster_kernel) + self.cluster_bias], -1)
    head = jax.nn.log_softmax(head)
    shortlist = self.config.clusters[0][1]
    parts = [head[..., :shortlist]]
    for i, tail in enumerate(tails):
      tail = jax.nn.log_softmax(product(tail, self.kernels[i + 1]) + self.biases[i + 1])
      parts.append(head[..., shortlist + i, None] + tail)
    return jnp.concatenate(parts, -1)
