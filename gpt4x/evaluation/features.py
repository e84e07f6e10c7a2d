"""What pictures and sounds are compared by: gradients of pictures, and the loudness of sounds by frequency."""

from collections.abc import Sequence

import numpy as np

from gpt4x.media.medium import Audio

FLOOR = -80.0  # Decibels below full scale, under which nothing is told apart.


def hog(pixels: np.ndarray, cell: int = 4, bins: int = 9) -> np.ndarray:
  """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005) of pictures of one size, float32 [n, F].

  Args:
    pixels: uint8 [n, H, W, C]; of several channels the one with the strongest gradient counts.
    cell: pixels to a side of a cell; blocks are of 2 x 2 cells, and overlap.
    bins: orientations, of which opposite ones are the same.
  """
  scaled = np.pad(pixels.astype(np.float32) / 255, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  down, right = scaled[:, 2:, 1:-1] - scaled[:, :-2, 1:-1], scaled[:, 1:-1, 2:] - scaled[:, 1:-1, :-2]
  strongest = np.argmax(np.hypot(down, right), -1, keepdims=True)
  down, right = (np.take_along_axis(slope, strongest, -1)[..., 0] for slope in (down, right))
  place = np.arctan2(down, right) / np.pi * bins - 0.5  # Bins are known by their middle.
  below = np.floor(place).astype(np.int32)
  strength, share = np.hypot(down, right), place - below
  rows, columns = pixels.shape[1] // cell, pixels.shape[2] // cell
  cells = np.zeros((len(pixels), rows, columns, bins), np.float32)
  for number in range(bins):
    part = strength * np.where(below % bins == number, 1 - share, np.where((below + 1) % bins == number, share, 0))
    part = part[:, :rows * cell, :columns * cell].reshape(len(pixels), rows, cell, columns, cell)
    cells[..., number] = part.sum((2, 4))
  blocks = np.lib.stride_tricks.sliding_window_view(cells, (min(2, rows), min(2, columns)), (1, 2))
  blocks = blocks.reshape(len(pixels), -1, bins * min(2, rows) * min(2, columns))
  for _ in range(2):  # No single edge counts for more than a fifth of its block.
    blocks = np.minimum(blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 1e-4), 0.2)
  return blocks.reshape(len(pixels), -1)


def log_mel(sound: Audio, bands: int = 40, window: float = 0.032, hop: float = 0.01) -> np.ndarray:
  """The loudness of a sound by time and frequency, float64 [frames, bands], in decibels below full scale.

  Args:
    sound: which is zero behind its end.
    bands: triangles that overlap by half, of equal width in mel, 2595 log10(1 + Hz / 700), up to half the rate.
    window: seconds of a frame, under a Hann window.
    hop: seconds from one frame to the next.
  """
  length, step = round(window * sound.rate), round(hop * sound.rate)
  frames = 1 + max(0, -(-(len(sound.samples) - length) // step))
  samples = np.zeros(length + (frames - 1) * step)
  samples[:len(sound.samples)] = sound.samples / 32768
  taper = np.hanning(length + 1)[:-1]
  pieces = np.lib.stride_tricks.sliding_window_view(samples, length)[::step] * taper
  size = 2 << (length - 1).bit_length()  # Twice the next power of two, so that no low band is without a frequency.
  # A sine as loud as can be has 0 decibels.
  power = np.abs(np.fft.rfft(pieces, size))**2 / (taper.sum() / 2)**2
  return 10 * np.log10(np.maximum(power @ _triangles(sound.rate, size, bands), 10**(FLOOR / 10)))


def _triangles(rate: int, size: int, bands: int) -> np.ndarray:
  """The share of each frequency of a transform in each band, [size / 2 + 1, bands]."""
  highest = 2595 * np.log10(1 + rate / 2 / 700)
  corners = 700 * (10**(np.linspace(0, highest, bands + 2) / 2595) - 1)
  low, middle, high = corners[:-2], corners[1:-1], corners[2:]
  frequencies = np.fft.rfftfreq(size, 1 / rate)[:, None]
  rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
  return np.clip(np.minimum(rising, falling), 0, None)


def timbre(sounds: Sequence[Audio], steps: int = 12, bands: int = 40) -> np.ndarray:
  """The log-mel loudness of sounds of any length in `steps` equal parts of each, float32 [n, steps * bands]."""
  found = []
  for sound in sounds:
    loudness = log_mel(sound, bands)
    # The integral over time, at the ends of the parts.
    total = np.concatenate([np.zeros((1, bands)), np.cumsum(loudness, 0)])
    ends = np.linspace(0, len(loudness), steps + 1)
    whole = np.minimum(ends.astype(int), len(loudness) - 1)
    at_ends = total[whole] + (ends - whole)[:, None] * loudness[whole]
    found.append(np.diff(at_ends, axis=0).ravel() * steps / len(loudness))
  return np.array(found, np.float32).reshape(len(found), steps * bands)
