"""The MDCT against its definition, and that nothing is lost; patches, and the first frame of a video alone."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.media import spectra, transforms


def mdct_by_definition(samples, hop, window):
  """In float64, one sum after another."""
  count = math.ceil(len(samples) / hop) + 1
  padded = np.concatenate([np.zeros(hop), samples, np.zeros((count + 1) * hop - hop - len(samples))])
  found = np.zeros((count, hop))
  for frame in range(count):
    for k in range(hop):
      found[frame, k] = math.sqrt(2 / hop) * sum(
          window[n] * padded[frame * hop + n] * math.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
          for n in range(2 * hop))
  return found


def sine(hop):
  return np.sin(math.pi / (2 * hop) * (np.arange(2 * hop) + 0.5))


def kbd(hop):
  weights = [np.i0(math.pi * 4 * math.sqrt(1 - (2 * n / hop - 1)**2)) for n in range(hop + 1)]
  half = [math.sqrt(sum(weights[:n + 1]) / sum(weights)) for n in range(hop)]
  return np.array(half + half[::-1])


@pytest.mark.parametrize("window, reference", [("sine", sine), ("kbd", kbd)])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 31])
def test_mdct_is_its_definition(length, window, reference):
  samples = np.random.default_rng(length).normal(size=length)
  found = transforms.mdct(jnp.asarray(samples, jnp.float32), 8, window)
  np.testing.assert_allclose(found, mdct_by_definition(samples, 8, reference(8)), atol=1e-5)


@pytest.mark.parametrize("window", transforms.WINDOWS)
@pytest.mark.parametrize("length", [0, 1, 5, 6, 7, 12, 29])
def test_mdct_loses_nothing(length, window):
  """Of any length, the last partial frame included; and it keeps the energy."""
  samples = np.random.default_rng(0).normal(size=(2, length)).astype(np.float32)
  coefficients = transforms.mdct(jnp.asarray(samples), 6, window)
  assert coefficients.shape == (2, math.ceil(length / 6) + 1, 6)
  again = np.asarray(transforms.inverse_mdct(coefficients, window))
  np.testing.assert_allclose(again[:, :length], samples, atol=1e-5)
  np.testing.assert_allclose(again[:, length:], 0, atol=1e-5)
  np.testing.assert_allclose(np.sum(coefficients**2), np.sum(samples**2), rtol=1e-5)


def test_a_patch_is_the_pixels_of_a_square():
  pixels = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  patches = np.asarray(transforms.image_patches(jnp.asarray(pixels), 2))
  assert patches.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(patches[1, 1, 2], pixels[1, 2:4, 4:6].ravel())
  np.testing.assert_array_equal(transforms.images_of_patches(patches, 2), pixels)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("time_patch", [1, 2, 3])
def test_video_patches_have_the_first_frame_alone(count, time_patch):
  frames = np.random.default_rng(0).integers(0, 256, (1, count, 4, 2, 1))
  patches = np.asarray(transforms.video_patches(jnp.asarray(frames), 2, time_patch))
  assert patches.shape == (1, 1 + math.ceil((count - 1) / time_patch), 2, 1, time_patch * 4)
  other = frames.copy()
  other[:, 1:] = 0
  np.testing.assert_array_equal(patches[:, 0], transforms.video_patches(jnp.asarray(other), 2, time_patch)[:, 0])
  again = np.asarray(transforms.videos_of_patches(jnp.asarray(patches), 2, time_patch))
  assert again.shape[1] == 1 + (patches.shape[1] - 1) * time_patch
  np.testing.assert_array_equal(again[:, :count], frames)
  for filled_up in range(count, again.shape[1]):
    np.testing.assert_array_equal(again[:, filled_up], frames[:, -1])


def test_a_tone_is_in_its_band_and_silence_is_the_floor():
  tone = np.sin(2 * np.pi * 1000 / 8000 * np.arange(4000)).astype(np.float32)
  found = np.asarray(spectra.log_mel(jnp.asarray(np.stack([tone, 0 * tone])), 8000, 256))
  edges = 700 * (10**(np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)
  band = found[0, 10].argmax()
  assert edges[band] < 1000 < edges[band + 2]
  np.testing.assert_allclose(found[1], -70, atol=1e-3)
  halved = np.asarray(spectra.log_mel(jnp.asarray(tone / 10), 8000, 256))
  assert found[0, 10, band] - halved[10, band] == pytest.approx(20, abs=0.1)
  np.testing.assert_allclose(spectra.log_spectral_distance(found[0], found[0] + 3), 3, rtol=1e-6)
