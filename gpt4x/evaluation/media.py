"""How far media are apart."""

import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.evaluation.classification import squared_distances
from gpt4x.evaluation.features import log_mel
from gpt4x.media import spectra
from gpt4x.media.medium import Audio, Image, Video


def psnr(one: Image | Video, other: Image | Video) -> float:
  """The peak signal-to-noise ratio of two pictures or videos of one size, in decibels: 10 log10(255^2 / MSE).

  It is infinite for equal ones. That of a video is of all its pixels together.
  """
  first, second = (medium.frames if isinstance(medium, Video) else medium.pixels for medium in (one, other))
  if first.shape != second.shape:
    raise UserError(f"{one.medium} {list(first.shape)} and {other.medium} {list(second.shape)} differ in size, so they"
                    " have no PSNR: resize one of them")
  error = np.mean((first.astype(np.float64) - second)**2)
  return float(10 * np.log10(255**2 / error)) if error else float("inf")


def spectral_distance(one: Audio, other: Audio) -> float:
  """How far two sounds of one rate are apart in log-mel loudness, in decibels.

  It is the root mean square over the bands of each frame, and the mean of that over the frames: see `features.log_mel`.
  The shorter sound ends in silence.
  """
  if one.rate != other.rate:
    raise UserError(f"sounds of {one.rate} and {other.rate} samples a second cannot be compared: resample one of them")
  length = max(len(one.samples), len(other.samples))
  padded = lambda sound: Audio(np.pad(sound.samples, (0, length - len(sound.samples))), sound.rate)
  ours, theirs = (jnp.asarray(log_mel(padded(sound))) for sound in (one, other))
  return float(np.mean(spectra.log_spectral_distance(ours, theirs)))


def nearest_distances(pixels: np.ndarray, training: np.ndarray) -> np.ndarray:
  """The distance of each picture from its nearest training picture, [n], a root mean square in steps of 1 / 255.

  Args:
    pixels: uint8 [n, H, W, C].
    training: uint8 [m, H, W, C]; a copy of one of them is at distance 0.
  """
  flat = lambda pictures: pictures.reshape(len(pictures), -1).astype(np.float64)
  nearest = [squared_distances(flat(pixels[start:start + 256]), flat(training)).min(1)
             for start in range(0, len(pixels), 256)]
  return np.sqrt(np.concatenate(nearest) / pixels[0].size)
