"""What pictures and sounds are compared by: gradients of pictures, and the loudness of sounds by frequency."""

from collections.abc import Sequence

import jax
import numpy as np

from gpt4x.media import spectra
from gpt4x.media.medium import Audio

BANDS, FLOOR = 40, -70.0  # Of pitch; decibels that silence has, when 0 is as loud as can be.
_PIECE = 4096  # Samples: sounds are filled up with silence, so that few lengths are compiled.


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
  cell = min(cell, *pixels.shape[1:3])
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


def log_mel(sound: Audio) -> np.ndarray:
  """The loudness of a sound by time and pitch, float32 [frames, BANDS], in decibels; see `spectra.log_mel`.

  A frame is 32 ms, half of which is in the next.
  """
  window = int(0.032 * sound.rate) // 2 * 2
  length = max(1, len(sound.samples))
  samples = np.zeros(-(-length // _PIECE) * _PIECE, np.float32)
  samples[:len(sound.samples)] = sound.samples / 32768
  return np.asarray(_spectrum(samples, sound.rate, window, BANDS))[:-(-length // (window // 2))]


_spectrum = jax.jit(spectra.log_mel, static_argnums=(1, 2, 3))


def timbre(sounds: Sequence[Audio], steps: int = 12) -> np.ndarray:
  """The log-mel loudness of sounds of any length in `steps` equal parts of each, float32 [n, steps * BANDS].

  Each is less its mean, for a recording may be loud or quiet.
  """
  found = []
  for sound in sounds:
    loudness = log_mel(sound)
    # The integral over time, at the ends of the parts.
    total = np.concatenate([np.zeros((1, BANDS)), np.cumsum(loudness, 0)])
    ends = np.linspace(0, len(loudness), steps + 1)
    whole = np.minimum(ends.astype(int), len(loudness) - 1)
    at_ends = total[whole] + (ends - whole)[:, None] * loudness[whole]
    parts = np.diff(at_ends, axis=0).ravel() * steps / len(loudness)
    found.append(parts - parts.mean())
  return np.array(found, np.float32).reshape(len(found), steps * BANDS)
