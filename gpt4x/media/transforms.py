"""Media as cells and back, exactly: the MDCT of sounds, patches of images, causal patches of videos."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

_PRECISION = jax.lax.Precision.HIGHEST
WINDOWS = ("sine", "kbd")


def mdct(samples: jax.Array, hop: int, window: str = "sine") -> jax.Array:
  """The modified discrete cosine transform [..., ceil(T / hop) + 1, hop] of samples [..., T].

  Frames are two hops long and overlap by one. Silence is taken to be around the samples. The transform is orthonormal,
  so it keeps the energy.
  """
  *rows, length = samples.shape
  padding = [(0, 0)] * len(rows) + [(hop, hop + -length % hop)]
  blocks = jnp.pad(samples, padding).reshape(*rows, -1, hop)
  frames = jnp.concatenate([blocks[..., :-1, :], blocks[..., 1:, :]], -1)
  return jnp.matmul(frames, _mdct_basis(hop, window), precision=_PRECISION)


def inverse_mdct(coefficients: jax.Array, window: str = "sine") -> jax.Array:
  """The samples [..., (n - 1) * hop] of coefficients [..., n, hop]: those of `mdct`, with silence up to a whole hop."""
  *rows, count, hop = coefficients.shape
  frames = jnp.matmul(coefficients, _mdct_basis(hop, window).T, precision=_PRECISION)
  return (frames[..., :-1, hop:] + frames[..., 1:, :hop]).reshape(*rows, max(count - 1, 0) * hop)


@functools.cache
def _mdct_basis(hop: int, window: str) -> np.ndarray:
  """[2 * hop, hop], windowed; its columns, shifted by hops, are an orthonormal basis (Princen, Bradley, 1986)."""
  n, k = np.arange(2 * hop)[:, None], np.arange(hop)
  cosines = np.cos(np.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
  return (math.sqrt(2 / hop) * _window(hop, window)[:, None] * cosines).astype(np.float32)


def _window(hop: int, name: str) -> np.ndarray:
  """[2 * hop]; the squares of any two values a hop apart add up to one. KBD (alpha 4) leaks less from far bands."""
  if name == "sine":
    return np.sin(np.pi / (2 * hop) * (np.arange(2 * hop) + 0.5))
  kaiser = np.cumsum(np.kaiser(hop + 1, 4 * np.pi))
  rising = np.sqrt(kaiser[:hop] / kaiser[-1])
  return np.concatenate([rising, rising[::-1]])


def image_patches(pixels: jax.Array, patch: int) -> jax.Array:
  """[..., H, W, C] -> [..., H / patch, W / patch, patch * patch * C]."""
  *lead, height, width, channels = pixels.shape
  x = pixels.reshape(*lead, height // patch, patch, width // patch, patch, channels)
  return jnp.swapaxes(x, -4, -3).reshape(*lead, height // patch, width // patch, -1)


def images_of_patches(patches: jax.Array, patch: int) -> jax.Array:
  """The inverse of `image_patches`."""
  *lead, rows, columns, size = patches.shape
  x = patches.reshape(*lead, rows, columns, patch, patch, size // patch**2)
  return jnp.swapaxes(x, -4, -3).reshape(*lead, rows * patch, columns * patch, -1)


def video_patches(frames: jax.Array, patch: int, time_patch: int) -> jax.Array:
  """[..., T, H, W, C] -> [..., 1 + ceil((T - 1) / t), H / patch, W / patch, t * patch * patch * C], t = time_patch.

  The first frame is alone: t times in the first patch. The last frame fills up the last one.
  """
  count = frames.shape[-4]
  padding = [(0, 0)] * (frames.ndim - 4) + [(time_patch - 1, (1 - count) % time_patch)] + [(0, 0)] * 3
  x = image_patches(jnp.pad(frames, padding, mode="edge"), patch)  # [..., n * t, h, w, p]
  *lead, _, height, width, size = x.shape
  x = x.reshape(*lead, -1, time_patch, height, width, size)
  return jnp.moveaxis(x, -4, -2).reshape(*lead, -1, height, width, time_patch * size)


def videos_of_patches(patches: jax.Array, patch: int, time_patch: int) -> jax.Array:
  """The inverse of `video_patches`: [..., 1 + (n - 1) * t, H, W, C], the last frame repeated where it filled up."""
  *lead, count, height, width, size = patches.shape
  x = jnp.moveaxis(patches.reshape(*lead, count, height, width, time_patch, size // time_patch), -2, -4)
  frames = images_of_patches(x.reshape(*lead, count * time_patch, height, width, -1), patch)
  return frames[..., time_patch - 1:, :, :, :]
