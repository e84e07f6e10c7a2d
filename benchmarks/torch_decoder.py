"""The peer on a GPU: the decoder of gin_configs/models/dense_1.3b.gin, without a memory, in plain PyTorch."""

import torch
from torch import nn
import torch.nn.functional as F

from gpt4x.models.config import TransformerConfig


class Decoder(nn.Module):
  """Pre-norm RMS norm, SwiGLU, rotary positions, grouped-query attention, separate embedding and output, no biases.

  Query, key and value are one product, and so are gate and input of the MLP; attention is PyTorch's own.
  """

  def __init__(self, config: TransformerConfig, dtype: torch.dtype, length: int, cached: bool = False):
    """`length` is that of rows, or of the cache of one row; `dtype` is that of the residual stream and the cache."""
    super().__init__()
    self._scale, self._dtype = config.embed_dim**0.5, dtype
    self.table = nn.Embedding(config.vocab_size, config.embed_dim)
    self.layers = nn.ModuleList(Layer(config, dtype, length if cached else 0) for _ in range(config.num_layers))
    self.norm = Norm(config)
    self.output = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
    nn.init.normal_(self.table.weight, std=1 / self._scale)
    nn.init.normal_(self.output.weight, std=1 / self._scale)
    frequencies = config.rotary_base ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.arange(length)[:, None] * frequencies
    self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]).to(dtype), persistent=False)
    if (count := sum(parameter.numel() for parameter in self.parameters())) != config.num_params():
      raise ValueError(f"the peer has {count} parameters, ours {config.num_params()}")

  def forward(self, tokens: torch.Tensor, position: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [B, L, V] of the token after each of [B, L]; or of the one token [1, 1] at a position [1] of the cache."""
    rotation, mask = self.rotation, None
    if position is not None:
      mask = torch.arange(rotation.shape[1], device=position.device)[None] <= position
      rotation = rotation[:, position]
    x = (self.table(tokens) * self._scale).to(self._dtype)
    for layer in self.layers:
      x = layer(x, rotation, position, mask)
    return self.output(self.norm(x))

  def loss(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(self(tokens).flatten(0, 1).float(), targets.flatten())

  def step(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The likeliest token [1, 1] after the one at a position [1]."""
    return self(token, position).argmax(-1)


class Norm(nn.Module):

  def __init__(self, config: TransformerConfig):
    super().__init__()
    self.scale = nn.Parameter(torch.ones(config.embed_dim))
    self._epsilon = config.norm_epsilon

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x.float(), self.scale.shape, self.scale.float(), self._epsilon).to(x.dtype)


class Layer(nn.Module):

  def __init__(self, config: TransformerConfig, dtype: torch.dtype, window: int):
    super().__init__()
    self._heads = config.num_heads, config.num_kv_heads, config.num_kv_heads
    linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
    self.attention_norm, self.mlp_norm = Norm(config), Norm(config)
    self.qkv = linear(config.embed_dim, sum(self._heads) * config.head_dim)
    self.out = linear(config.num_heads * config.head_dim, config.embed_dim)
    self.wi = linear(config.embed_dim, 2 * config.mlp_dim)
    self.wo = linear(config.mlp_dim, config.embed_dim)
    if window:  # Buffers, for what CUDA graphs change must stay where it is.
      for name in ("keys", "values"):
        empty = torch.zeros(1, config.num_kv_heads, window, config.head_dim, dtype=dtype)
        self.register_buffer(name, empty, persistent=False)

  def forward(self, x: torch.Tensor, rotation: torch.Tensor, position: torch.Tensor | None,
              mask: torch.Tensor | None) -> torch.Tensor:
    joined = self.qkv(self.attention_norm(x)).unflatten(-1, (sum(self._heads), -1)).transpose(1, 2)
    query, key, value = joined.split(self._heads, 1)
    query, key = rotate(query, rotation), rotate(key, rotation)
    if position is not None:
      key, value = self.keys.index_copy_(2, position, key), self.values.index_copy_(2, position, value)
    mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)
    x = x + self.out(mixed.transpose(1, 2).flatten(2))
    hidden, gate = self.wi(self.mlp_norm(x)).chunk(2, -1)
    return x + self.wo(F.silu(gate) * hidden)


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
  """Rotary embedding of x [..., L, K], its two halves paired, by the cosines and sines [2, L, K / 2]."""
  cos, sin = rotation
  x1, x2 = x.chunk(2, -1)
  return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)
