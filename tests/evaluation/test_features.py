"""What pictures and sounds are compared by."""

import math

import numpy as np

from gpt4x.evaluation import features
from gpt4x.media.medium import Audio


def pictures(count=3, side=8, channels=1, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


def reference_hog(pixels, cell=4, bins=9):
  """A pixel at a time."""
  side = len(pixels) // cell
  cells = np.zeros((side, side, bins))
  at = lambda y, x, c: float(pixels[min(max(y, 0), len(pixels) - 1), min(max(x, 0), len(pixels) - 1), c]) / 255
  for y in range(side * cell):
    for x in range(side * cell):
      slopes = [(at(y + 1, x, c) - at(y - 1, x, c), at(y, x + 1, c) - at(y, x - 1, c)) for c in range(pixels.shape[-1])]
      down, right = max(slopes, key=lambda slope: math.hypot(*slope))
      place = math.atan2(down, right) / math.pi * bins - 0.5
      low = math.floor(place)
      cells[y // cell, x // cell, low % bins] += math.hypot(down, right) * (1 - (place - low))
      cells[y // cell, x // cell, (low + 1) % bins] += math.hypot(down, right) * (place - low)
  found = []
  for y in range(side - 1):
    for x in range(side - 1):
      block = np.moveaxis(cells[y:y + 2, x:x + 2], -1, 0).ravel()
      for _ in range(2):
        block = np.minimum(block / math.sqrt((block**2).sum() + 1e-4), 0.2)
      found.append(block)
  return np.concatenate(found)


def test_gradients_are_their_definition():
  for channels in (1, 3):
    pixels = pictures(side=13, channels=channels)  # Of 13 pixels the last belongs to no cell.
    np.testing.assert_allclose(features.hog(pixels), [reference_hog(one) for one in pixels], atol=1e-4)


def test_gradients_do_not_see_brightness_and_inversion():
  pixels = pictures() // 2
  np.testing.assert_allclose(features.hog(pixels + np.uint8(100)), features.hog(pixels), atol=1e-5)
  np.testing.assert_allclose(features.hog(255 - pixels), features.hog(pixels), atol=1e-5)


def test_an_edge_is_in_the_bin_of_its_direction():
  upright = np.zeros((1, 8, 8, 1), np.uint8)
  upright[:, :, 4:] = 200
  found = features.hog(upright).reshape(-1, 9, 4).sum((0, 2))  # Bins come before the cells of a block.
  assert set(np.flatnonzero(found > 0.1)) == {0, 8}, "a slope to the right lies between the first bin and the last"
  level = features.hog(upright.transpose(0, 2, 1, 3)).reshape(-1, 9, 4).sum((0, 2))
  assert set(np.flatnonzero(level > 0.1)) == {4}


def test_a_picture_of_one_cell_has_features_too():
  assert features.hog(pictures(side=5)).shape == (3, 9) and features.hog(pictures(side=8)).shape == (3, 36)


def test_timbre_is_the_mean_of_equal_parts():
  rng = np.random.default_rng(0)
  for frames in (24, 31, 12, 5, 1):
    sound = Audio((3000 * rng.normal(size=128 * frames)).astype(np.int16), 8000)
    loudness, found = features.log_mel(sound), features.timbre([sound]).reshape(12, features.BANDS)
    assert len(loudness) == frames
    # As if each frame were 12 short ones.
    expected = loudness.repeat(12, 0).reshape(12, frames, features.BANDS).mean(1)
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-3)


def test_timbre_does_not_hear_how_loud_a_recording_is():
  samples = np.random.default_rng(0).normal(size=4000)
  one, other = (features.timbre([Audio((loudness * samples).astype(np.int16), 8000)]) for loudness in (6000, 1500))
  assert np.mean(np.abs(one - other) < 0.5) > 0.9, "12 decibels make no difference, but where all is silent"


def test_timbre_of_sounds_of_any_length():
  silent = [Audio(np.zeros(length, np.int16), 8000) for length in (0, 1, 8000)]
  found = features.timbre(silent)
  assert found.shape == (3, 12 * features.BANDS) and found.dtype == np.float32
  np.testing.assert_allclose(found, 0, atol=1e-3)
  assert features.timbre([]).shape == (0, 12 * features.BANDS)
