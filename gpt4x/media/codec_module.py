"""The network of a learned codec: one module for images, sounds and videos."""

import dataclasses
import math
from typing import get_args, Literal

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp

from gpt4x.errors import refuse, require
from gpt4x.media import fsq, transforms

_PRECISION = jax.lax.Precision.HIGHEST  # Codes are to be the same on every accelerator.
_LOUDNESS = 64.0  # The roots of a voice's coefficients are about one; without roots, loud ones would drown all others.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """Sizes of a codec that is learned; all of it but the sizes of pictures and the length of sounds, which may be any.

  A cell is a patch of an image, a frame of a sound's MDCT, or a patch of some frames of a video. It becomes `codebooks`
  codes, each of as many values as the product of `levels`.
  """

  medium: Literal["image", "audio", "video"]
  levels: tuple[int, ...] = (8, 5, 5, 5)
  codebooks: int = 1  # Each codes what those before it have left over.
  channels: int = 1  # Of pixels: 1 is grey, 3 RGB.
  patch: int = 4  # Pixels of the side of a patch.
  time_patch: int = 1  # Frames of a video in a patch; the first frame is always alone.
  fps: float = 8.0  # Frames a second of the videos that are decoded.
  rate: int = 8000  # Samples a second.
  hop: int = 160  # Samples between frames of a sound.
  window: Literal["sine", "kbd"] = "sine"  # Of the MDCT.
  width: int = 64
  depth: int = 3  # Blocks of the encoder, and as many of the decoder.
  kernel: int = 3  # Cells that a block sees along each axis; along time none that come later.

  def __post_init__(self):
    object.__setattr__(self, "levels", tuple(self.levels))  # A gin file may give a list.
    for name in ("medium", "window"):
      choices = get_args(CodecConfig.__annotations__[name])
      refuse(self, getattr(self, name) not in choices, name, f"is unknown: choose one of {', '.join(choices)}")
    whole = lambda low, high: lambda value: isinstance(value, int) and low <= value <= high
    require(self, "whole numbers from 2 to 256, with a product of at most 2**24",
            lambda levels: levels and all(map(whole(2, 256), levels)) and math.prod(levels) <= 2**24, "levels")
    require(self, "1 (grey) or 3 (RGB)", lambda count: count in (1, 3), "channels")
    require(self, "a whole number from 1 to 64", whole(1, 64), "codebooks", "patch", "time_patch", "depth")
    require(self, "a whole number from 1 to 2**16", whole(1, 2**16), "rate", "hop", "width")
    require(self, "above 0", lambda rate: 0 < rate < 1e6, "fps")
    require(self, "an odd number from 1 to 31", lambda size: whole(1, 31)(size) and size % 2, "kernel")
    refuse(self, self.medium != "video" and self.time_patch > 1, "time_patch", "is for videos: leave it at 1")

  @property
  def num_codes(self) -> tuple[int, ...]:
    return (math.prod(self.levels),) * self.codebooks

  @property
  def units_per_cell(self) -> int:
    """Pixels times channels, or samples of sound."""
    return self.hop if self.medium == "audio" else self.time_patch * self.patch**2 * self.channels

  @property
  def num_axes(self) -> int:
    """Of cells: time, rows and columns, or those of them that there are."""
    return {"image": 2, "audio": 1, "video": 3}[self.medium]

  # What a loop asks of any model's configuration. Its tokens are bytes of the medium.

  @property
  def vocab_size(self) -> int:
    return 259  # The ids of bytes.

  memory_length = eval_memory_length = 0
  compute_dtype = "float32"

  def num_params(self) -> int:
    return sum(math.prod(shape) for shape in self._shapes())

  def flops_per_token(self, segment_length: int, memory_length: int | None = None, training: bool = False,
                      causal: bool = True) -> float:
    """Floating-point operations of the products for each byte, two for a multiply-add; training takes three times."""
    kernels = sum(math.prod(shape) for shape in self._shapes() if len(shape) > 1)
    bytes_per_cell = self.units_per_cell * (2 if self.medium == "audio" else 1)
    return 2 * kernels * (3 if training else 1) / bytes_per_cell

  def _shapes(self) -> list[tuple[int, ...]]:
    variables = jax.eval_shape(CodecModule(self).init, jax.random.key(0), cells_of_zeros(self))
    return [leaf.shape for leaf in jax.tree.leaves(variables)]


def cells_of_zeros(config: CodecConfig) -> jax.Array:
  return jnp.zeros((1, *(1,) * config.num_axes, config.units_per_cell))


class CodecModule(nn.Module):
  """Cells [B, *cells, units] to codes [B, *cells, K] and back.

  What is along a cell's axes is seen by convolutions, in time from the past alone. So any size will do, and what comes
  later changes no earlier code and no earlier sample.
  """

  config: CodecConfig

  def setup(self):
    c = self.config
    self.input, self.encoder = _dense(c.width), Tower(c)
    self.decoder, self.output = Tower(c), _dense(c.units_per_cell)
    self.down = [_dense(len(c.levels)) for _ in range(c.codebooks)]
    self.up = [_dense(c.width) for _ in range(c.codebooks)]

  def __call__(self, cells: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cells as decoding has them, and their codes."""
    embedded, codes = self._quantize(cells)
    return self.output(self.decoder(embedded)), codes

  def encode(self, cells: jax.Array) -> jax.Array:
    return self._quantize(cells)[1]

  def decode(self, codes: jax.Array) -> jax.Array:
    values = (fsq.values(codes[..., i], self.config.levels) for i in range(self.config.codebooks))
    parts = [up(value) for up, value in zip(self.up, values)]
    return self.output(self.decoder(sum(parts[1:], parts[0])))

  def _quantize(self, cells: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, codes = self.encoder(self.input(cells)), []
    embedded = jnp.zeros_like(left)
    for down, up in zip(self.down, self.up):
      value, code = fsq.quantize(down(left), self.config.levels)
      part = up(value)
      left, embedded = left - part, embedded + part
      codes.append(code)
    return embedded, jnp.stack(codes, -1)


class Tower(nn.Module):
  """Residual blocks of a convolution and a product, then a norm."""

  config: CodecConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c, around = self.config, self.config.kernel // 2
    time = [] if c.medium == "image" else [(c.kernel - 1, 0)]
    padding = time + [(around, around)] * (c.num_axes - len(time))
    for i in range(c.depth):
      y = nn.RMSNorm(name=f"norm_{i}")(x)
      y = nn.Conv(c.width, (c.kernel,) * c.num_axes, padding=padding, precision=_PRECISION, name=f"window_{i}")(y)
      x = x + _dense(c.width, f"mix_{i}")(nn.gelu(y))
    return nn.RMSNorm(name="final_norm")(x)


def _dense(features: int, name: str | None = None) -> nn.Dense:
  return nn.Dense(features, precision=_PRECISION, name=name)


def to_cells(config: CodecConfig, media: jax.Array) -> jax.Array:
  """Numbers from -1 to 1, images [B, H, W, C], sounds [B, T] or videos [B, T, H, W, C], as cells."""
  if config.medium == "image":
    return transforms.image_patches(media, config.patch)
  if config.medium == "video":
    return transforms.video_patches(media, config.patch, config.time_patch)
  coefficients = transforms.mdct(media, config.hop, config.window)
  return jnp.sign(coefficients) * jnp.sqrt(_LOUDNESS * jnp.abs(coefficients))


def from_cells(config: CodecConfig, cells: jax.Array) -> jax.Array:
  """The inverse of `to_cells`."""
  if config.medium == "image":
    return transforms.images_of_patches(cells, config.patch)
  if config.medium == "video":
    return transforms.videos_of_patches(cells, config.patch, config.time_patch)
  return transforms.inverse_mdct(cells * jnp.abs(cells) / _LOUDNESS, config.window)


def scaled(media: jax.Array) -> jax.Array:
  """Pixels uint8, or samples int16, as numbers from -1 to 1."""
  return media / 127.5 - 1 if media.dtype == jnp.uint8 else media / 32768.0


def unscaled(config: CodecConfig, media: jax.Array) -> jax.Array:
  """The inverse of `scaled`, of any numbers."""
  if config.medium == "audio":
    return jnp.clip(jnp.round(media * 32768), -32768, 32767).astype(jnp.int16)
  return jnp.clip(jnp.round((media + 1) * 127.5), 0, 255).astype(jnp.uint8)
