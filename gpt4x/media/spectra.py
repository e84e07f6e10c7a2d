"""Spectra as the ear has them, by which sounds are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_FLOOR = 1e-7  # Of power: 70 dB below full scale is silence.


def log_mel(samples: jax.Array, rate: int, window: int, bands: int = 40) -> jax.Array:
  """The power of samples [..., T] in decibels, [..., ceil(T / hop), bands], windows being two hops long."""
  hop = window // 2
  *rows, length = samples.shape
  padding = [(0, 0)] * len(rows) + [(0, hop + -length % hop)]
  blocks = jnp.pad(samples, padding).reshape(*rows, -1, hop)
  frames = jnp.concatenate([blocks[..., :-1, :], blocks[..., 1:, :]], -1) * np.hanning(2 * hop).astype(np.float32)
  spectrum = jnp.fft.rfft(frames) / hop
  power = jnp.real(spectrum)**2 + jnp.imag(spectrum)**2
  return 10 * jnp.log10(power @ _mel_bands(rate, hop, bands) + _FLOOR)


def log_spectral_distance(one: jax.Array, other: jax.Array) -> jax.Array:
  """The root mean square over bands of the difference of spectra [..., n, bands] in decibels, [..., n]."""
  return jnp.sqrt(jnp.mean((one - other)**2, -1))


@functools.cache
def _mel_bands(rate: int, hop: int, bands: int) -> np.ndarray:
  """Triangles [hop + 1, bands], evenly over the mel scale, each at least as wide as a bin."""
  to_mel, from_mel = lambda hertz: 2595 * np.log10(1 + hertz / 700), lambda mel: 700 * (10**(mel / 2595) - 1)
  corners = from_mel(np.linspace(0, to_mel(rate / 2), bands + 2))
  left, middle, right = corners[:-2], corners[1:-1], corners[2:]
  width = rate / 2 / hop
  bins = np.arange(hop + 1)[:, None] * width
  rising = (bins - middle) / np.maximum(middle - left, width) + 1
  falling = (middle - bins) / np.maximum(right - middle, width) + 1
  return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)
