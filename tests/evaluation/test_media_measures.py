"""Distances between media against what they are by definition."""

import math

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.evaluation import features, media
from gpt4x.media.medium import Audio, Image, Video


def noise(*shape, low=0, high=256, seed=0):
  return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


def sound(*, amplitude=3000.0, length=3000, rate=8000, seed=0):
  samples = np.random.default_rng(seed).normal(size=length) * amplitude
  return Audio(np.clip(samples, -32768, 32767).astype(np.int16), rate)


@pytest.mark.parametrize("error", [1, 5, 100])
def test_psnr_is_that_of_a_constant_error(error):
  pixels = noise(6, 7, 3, high=150)
  found = media.psnr(Image(pixels), Image(pixels + np.uint8(error)))
  np.testing.assert_allclose(found, 20 * math.log10(255 / error), rtol=1e-12)
  assert media.psnr(Image(pixels + np.uint8(error)), Image(pixels)) == found, "the sign of bytes does not wrap round"


def test_psnr_of_a_video_is_of_all_its_pixels():
  frames = noise(4, 5, 6, 1, high=200)
  other = frames.copy()
  other[1] += 20  # A quarter of the error's square.
  found = media.psnr(Video(frames, 8.0), Video(other, 8.0))
  np.testing.assert_allclose(found, 10 * math.log10(255**2 / (20**2 / 4)), rtol=1e-12)


def test_psnr_of_the_same_and_of_what_cannot_be_compared():
  pixels = noise(6, 7, 1)
  assert media.psnr(Image(pixels), Image(pixels.copy())) == math.inf
  with pytest.raises(UserError, match=r"image \[6, 7, 1\] and image \[7, 6, 1\] differ in size.*resize"):
    media.psnr(Image(pixels), Image(noise(7, 6, 1)))


def reference_log_mel(samples, rate):
  """In float64, frame by frame and band by band: 32 ms each, half of them in the next."""
  window = int(0.032 * rate) // 2 * 2
  hop, bands = window // 2, features.BANDS
  mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)
  corners = [700 * (10**(mel(rate / 2) * i / (bands + 1) / 2595) - 1) for i in range(bands + 2)]
  found = []
  for start in range(0, len(samples), hop):
    frame = np.zeros(window)
    piece = samples[start:start + window] / 32768
    frame[:len(piece)] = piece
    frame *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    power = [abs(sum(frame * np.exp(-2j * np.pi * k * np.arange(window) / window)) / hop)**2 for k in range(hop + 1)]
    row = []
    for left, middle, right in zip(corners, corners[1:], corners[2:]):
      width, total = rate / window, 1e-7
      for k, energy in enumerate(power):
        rising = 1 + (k * width - middle) / max(middle - left, width)
        falling = 1 + (middle - k * width) / max(right - middle, width)
        total += energy * max(0, min(rising, falling))
      row.append(10 * math.log10(total))
    found.append(row)
  return np.array(found)


@pytest.mark.parametrize("rate, length", [(8000, 700), (8000, 128), (16000, 1025), (11025, 901)])
def test_loudness_by_pitch_is_its_definition(rate, length):
  one, other = sound(length=length, rate=rate), sound(length=length, rate=rate, seed=1, amplitude=90)
  ours, theirs = (reference_log_mel(each.samples, rate) for each in (one, other))
  np.testing.assert_allclose(features.log_mel(one), ours, atol=0.01)
  distance = np.mean([math.sqrt(np.mean((a - b)**2)) for a, b in zip(ours, theirs)])
  np.testing.assert_allclose(media.spectral_distance(one, other), distance, rtol=1e-3)


def test_spectral_distance_of_what_is_louder():
  loud, quiet = sound(amplitude=8000), sound(amplitude=800)
  np.testing.assert_allclose(media.spectral_distance(loud, quiet), 20, rtol=0.02)  # Ten times as loud, 20 dB.
  assert media.spectral_distance(loud, loud) == 0
  assert media.spectral_distance(loud, quiet) == pytest.approx(media.spectral_distance(quiet, loud), rel=1e-6)


def test_spectral_distance_of_unequal_lengths_counts_the_rest():
  one = sound(length=4096)
  half = Audio(one.samples[:2048], one.rate)
  loudness = features.log_mel(one)
  expected = np.sqrt(np.mean((loudness - features.FLOOR)**2, -1))[16:].sum() / 32
  np.testing.assert_allclose(media.spectral_distance(half, one), expected, rtol=0.06)  # The frame across the end.
  with pytest.raises(UserError, match="8000 and 16000 samples a second cannot be compared: resample"):
    media.spectral_distance(one, sound(rate=16000))


def test_nearest_distances():
  training = noise(300, 4, 4, 3, seed=1)
  found = media.nearest_distances(np.concatenate([training[7:9], noise(300, 4, 4, 3, seed=2)]), training)
  assert found[:2].tolist() == [0, 0], "a copy is at distance 0"
  expected = [min(math.sqrt(np.mean((one.astype(float) - other)**2)) for other in training)
              for one in noise(300, 4, 4, 3, seed=2)[:3]]
  np.testing.assert_allclose(found[2:5], expected, rtol=1e-12)
  assert found.shape == (302,)
  flat = np.full((2, 5, 5, 1), 100, np.uint8)
  np.testing.assert_allclose(media.nearest_distances(flat + np.uint8(3), flat), [3, 3])
