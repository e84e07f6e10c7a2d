"""How near a codec comes to what it codes."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.media import fsq, spectra
from gpt4x.media.codec_module import CodecConfig, scaled, to_cells
from gpt4x.models.codec_model import CodecModel, Params
from gpt4x.models.sums import Sum, Sums

_FIRST_BYTE = 3  # The id of byte 0 in a vocabulary of bytes.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """The squared error of media that were coded and decoded; of sounds the error of their spectra as well.

  Targets are the bytes of one image, sound or video a row. See `Objective`.

  Attributes:
    size: height and width of images and videos; None: they are square, and a video is one image.
    spectral: what the squared error of a sound's log-mel spectra counts for, in bels, beside that of its MDCT.
    windows: samples that these spectra are taken over.
  """

  size: tuple[int, int] | None = None
  spectral: float = 50.0
  windows: tuple[int, ...] = (128, 256, 512)

  is_likelihood: ClassVar[bool] = False

  def initial_memory(self, model: CodecModel, batch_size: int, length: int, projected: bool = False) -> tuple[()]:
    return ()

  def __call__(self, model: CodecModel, params: Params, frozen: Any, batch: Mapping[str, jax.Array], memory: tuple[()],
               rng: jax.Array | None) -> tuple[Sums, tuple[()]]:
    del frozen, rng
    config, weights = model.config, jnp.sum(batch["decoder_loss_weights"], -1)  # [B]
    media = scaled(media_of_bytes(config, batch["decoder_target_tokens"], self.size))
    made, cells, codes = model.reconstruct(params, media)
    made = made[:, :media.shape[1]]  # The last cell may have been filled up.
    if config.medium == "audio":
      loss, sums = self._of_sounds(config, weights, media, made, cells)
    else:
      loss, sums = _mean(jnp.square(_within(made) - media)), {}
    error = _mean(jnp.square(jnp.clip(made, -1, 1) - media) / 4)
    shares = [jnp.zeros(count).at[codes[..., i]].add(weights.reshape(-1, *(1,) * (codes.ndim - 2)))
              for i, count in enumerate(config.num_codes)]
    return {"loss": _sum(loss, weights), "squared_error": _sum(error, weights), **sums,
            "commonest_code": Sum(jnp.stack(shares), jnp.sum(weights) * math.prod(codes.shape[1:-1]))}, memory

  def _of_sounds(self, config: CodecConfig, weights: jax.Array, media: jax.Array, made: jax.Array,
                 cells: jax.Array) -> tuple[jax.Array, dict[str, Sum]]:
    coefficients = _mean(jnp.square(cells - to_cells(config, media)))
    pairs = [[spectra.log_mel(one, config.rate, window, min(40, window // 4)) for one in (made, media)]
             for window in self.windows]
    spectral = jnp.mean(jnp.stack([_mean(jnp.square(one - other)) for one, other in pairs]), 0) / 100
    usual = int(0.032 * config.rate) // 2 * 2  # 32 ms.
    ours, theirs = (spectra.log_mel(one, config.rate, usual) for one in (jax.lax.stop_gradient(made), media))
    distance = _mean(spectra.log_spectral_distance(ours, theirs))
    return coefficients + self.spectral * spectral, {
        "coefficient_error": _sum(coefficients, weights), "spectral_error": _sum(spectral, weights),
        "log_spectral_distance": _sum(distance, weights)}

  def coefficients(self, model: CodecModel) -> dict[str, float]:
    return {"loss": 1.0}

  def derived(self, sums: Sums) -> dict[str, float]:
    """What follows from the sums of a whole split.

    `psnr` is in decibels and of the mean squared error; `codes_used` the share of codes that came at all; `code_bits`
    the entropy of a code, by its frequencies.
    """
    error = float(sums["squared_error"].mean)
    used, bits = fsq.usage(np.asarray(sums["commonest_code"].value))
    return {"psnr": -10 * math.log10(error) if error > 0 else math.inf, "codes_used": used, "code_bits": bits}


def media_of_bytes(config: CodecConfig, tokens: jax.Array, size: tuple[int, int] | None) -> jax.Array:
  """Rows of ids [B, L] of bytes as pixels uint8 or as samples int16."""
  rows, length = tokens.shape
  values = jnp.clip(tokens - _FIRST_BYTE, 0, 255)
  if config.medium == "audio":
    if length % 2:
      raise UserError(f"TASK_FEATURE_LENGTHS has {length} bytes of sound, and a sample has two: make it even")
    return (values[:, ::2] * 256 + values[:, 1::2] - 32768).astype(jnp.int16)
  side = math.isqrt(length // config.channels)
  height, width = size or (side, side)
  frames = length // (height * width * config.channels)
  what = f"{height} x {width} pixels with {config.channels} channel(s)"
  if frames * height * width * config.channels != length or (config.medium == "image" and frames != 1):
    raise UserError(f"TASK_FEATURE_LENGTHS has {length} bytes, which are no {config.medium} of {what}: correct it, or"
                    " Reconstruction.size or CodecConfig.channels")
  if height % config.patch or width % config.patch:
    raise UserError(f"Reconstruction.size: {what} are no whole patches of CodecConfig.patch = {config.patch}")
  shape = (frames, height, width, config.channels)[config.medium == "image":]
  return values.reshape(rows, *shape).astype(jnp.uint8)


def _within(x: jax.Array) -> jax.Array:
  """x clipped to what can be shown, with the gradient of x: darker than black is no error, but is not lost either."""
  return x + jax.lax.stop_gradient(jnp.clip(x, -1, 1) - x)


def _mean(x: jax.Array) -> jax.Array:
  """Of each row, [B]."""
  return jnp.mean(x.reshape(len(x), -1), -1)


def _sum(values: jax.Array, weights: jax.Array) -> Sum:
  return Sum(jnp.sum(values * weights), jnp.sum(weights))
