"""Sounds as what an adaptive predictor leaves over of them, without loss: 16-bit samples to 16-bit residuals and back.

The predictor is recursive least squares over the last samples, of which newer ones count for more. It learns from what
came before alone, so that the way back can follow it. Each number is made by one sum, product or quotient of float64 at
a time, in an order that is always the same; IEEE 754 then says what comes out, and machines agree to the last bit.
"""

from collections.abc import Callable, Sequence

import numpy as np

ORDER = 16  # Samples that the next is predicted from.
_FORGETTING = 0.992  # What a sample counts for beside the next: half of it all is from the last 90.
_UNSURE = 1e-4  # Of the first weights, before the first sounds: their samples are in the hundreds.
_MOST_UNSURE = 1e4  # Nothing is forgotten in silence.
_SURE_OF_ZEROS = 16  # Samples that are not 0 and end in bits of 0: from then on such bits are expected.


def residuals(sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
  """What is left of each of several sounds int16 [T], int16 [T]."""
  return _run(sounds, lambda given, predicted, zeros: (given, _difference(given, predicted, zeros)))


def samples(left: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The inverse of `residuals`."""

  def step(given: np.ndarray, predicted: np.ndarray, zeros: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = _sum(given, predicted, zeros)
    return found, found

  return _run(left, step)


def _run(given: Sequence[np.ndarray], step: Callable[..., tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
  """What `step` gives for each value: the sample, which is learned from, and what is kept. The longest come first."""
  order = sorted(range(len(given)), key=lambda i: -len(given[i]))
  lengths = np.array([len(given[i]) for i in order], np.int64)
  values = np.zeros((max(lengths, default=0), len(order)), np.int64)
  for column, i in enumerate(order):
    values[:len(given[i]), column] = given[i]
  kept, state = np.zeros_like(values), _Predictor(len(order))
  for t, row in enumerate(values):
    count = int(np.searchsorted(-lengths, -t))  # Of those that go on.
    state.only(count)
    sample, kept[t, :count] = step(row[:count], state.predicted, state.zeros)
    state.learn(sample)
  found: list[np.ndarray] = [np.zeros(0, np.int16)] * len(order)
  for column, i in enumerate(order):
    found[i] = kept[:len(given[i]), column].astype(np.int16)
  return found


class _Predictor:
  """The state of n sounds: weights, their uncertainty (the inverse of a covariance), and the last samples."""

  def __init__(self, count: int):
    self.weights, self.past = np.zeros((count, ORDER)), np.zeros((count, ORDER))
    self.unsure = np.zeros((count, ORDER, ORDER))
    self._forget_all(np.arange(count))
    self.bits, self.number = np.zeros(count, np.int64), np.zeros(count, np.int64)
    self._predict()

  def _forget_all(self, which: np.ndarray) -> None:
    self.weights[which] = np.eye(ORDER)[0]  # The last sample.
    self.unsure[which] = np.eye(ORDER) * _UNSURE

  def only(self, count: int) -> None:
    """Leaves out all but the first `count`."""
    if count < len(self.weights):
      for name, value in vars(self).items():
        setattr(self, name, value[:count])

  def learn(self, sample: np.ndarray) -> None:
    """Takes the sample of each in."""
    gain = _sums(self.unsure * self.past[:, None])
    share = _FORGETTING + _sums(gain * self.past)
    error = (sample - self._exact) / share
    self.weights = self.weights + gain * error[:, None]
    self.unsure = self.unsure - gain[:, :, None] * gain[:, None] / share[:, None, None]
    largest = self.unsure.max((1, 2))
    self.unsure *= np.where(largest < _MOST_UNSURE, 1 / _FORGETTING, 1.0)[:, None, None]
    # Rounding may make an uncertainty negative in the end.
    lost = ~((share > 0) & (largest < 2 * _MOST_UNSURE) & (np.abs(self.weights).max(1) < 1e6))
    if lost.any():
      self._forget_all(np.flatnonzero(lost))
    self.past = np.concatenate([sample[:, None].astype(np.float64), self.past[:, :-1]], 1)
    self.bits, self.number = self.bits | sample, self.number + (sample != 0)
    self._predict()

  def _predict(self) -> None:
    self._exact = _sums(self.weights * self.past)
    lowest = self.bits & -self.bits
    zeros = np.frexp(np.where(lowest, lowest, 1).astype(np.float64))[1].astype(np.int64) - 1  # log2, exactly.
    self.zeros = np.where(self.number >= _SURE_OF_ZEROS, zeros, 0)
    unit = (1 << self.zeros).astype(np.float64)
    self.predicted = np.rint(np.clip(self._exact, -32768, 32767) / unit).astype(np.int64) << self.zeros


def _sums(x: np.ndarray) -> np.ndarray:
  """Over the last axis, of a power of two: halves are added, for a library's sum has an order of its own."""
  while x.shape[-1] > 1:
    half = x.shape[-1] // 2
    x = x[..., :half] + x[..., half:]
  return x[..., 0]


# Samples that all end in bits of zero, as those of 8 bits do, differ by multiples of their last bit: those come first.


def _difference(sample: np.ndarray, predicted: np.ndarray, zeros: np.ndarray) -> np.ndarray:
  """The sample less the prediction, in units of 2**zeros; where there is a rest, something larger. A bijection."""
  left = _signed(sample - predicted)
  size = 65536 >> zeros  # How many units there are.
  return _signed((left >> zeros) + (left & ((1 << zeros) - 1)) * size)


def _sum(left: np.ndarray, predicted: np.ndarray, zeros: np.ndarray) -> np.ndarray:
  """The inverse of `_difference`: the sample."""
  half, size = 32768 >> zeros, 65536 >> zeros
  rest = (left + half) % 65536 // size
  units = (left + half) % size - half
  return _signed(predicted + (units << zeros) + rest)


def _signed(x: np.ndarray) -> np.ndarray:
  return (x + 32768) % 65536 - 32768
