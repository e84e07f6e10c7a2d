"""Codecs that lose nothing: pixels, PCM and residuals. The likelihood of their codes is that of the medium."""

from collections.abc import Sequence
import hashlib

import numpy as np

from gpt4x.media import conform, prediction
from gpt4x.media.medium import Audio, Image, Medium


class Pixels:
  """The channels of each pixel, which share one range of ids."""

  medium, shared_range, exact = "image", True, True
  patch = 1

  def __init__(self, channels: int):
    self.channels = self.units_per_cell = channels
    self.num_codes = (256,) * channels

  @property
  def fingerprint(self) -> str:
    return _fingerprint(f"pixels {self.channels}")

  def encode(self, medium: Medium) -> np.ndarray:
    pixels = conform.to_channels(conform.of_kind(medium, Image).pixels, self.channels)
    return conform.check_multiple(pixels, 1).astype(np.int32)

  def encode_all(self, media: Sequence[Medium]) -> list[np.ndarray]:
    return [self.encode(medium) for medium in media]

  def decode(self, codes: np.ndarray) -> Image:
    return Image(conform.check_codes(codes, self.num_codes, 2).astype(np.uint8))


class GreyPixels(Pixels):

  def __init__(self):
    super().__init__(1)


class RgbPixels(Pixels):

  def __init__(self):
    super().__init__(3)


class Pcm:
  """16-bit samples as the high and the low byte of value + 32768, each with its own range of ids."""

  medium, shared_range, exact = "audio", False, True
  num_codes, units_per_cell = (256, 256), 1

  def __init__(self, rate: int):
    self.rate = rate

  @property
  def fingerprint(self) -> str:
    return _fingerprint(f"pcm {self.rate}")

  def encode(self, medium: Medium) -> np.ndarray:
    raised = conform.check_rate(conform.of_kind(medium, Audio), self.rate).samples.astype(np.int32) + 32768
    return np.stack([raised >> 8, raised & 255], -1)

  def encode_all(self, media: Sequence[Medium]) -> list[np.ndarray]:
    return [self.encode(medium) for medium in media]

  def decode(self, codes: np.ndarray) -> Audio:
    codes = conform.check_codes(codes, self.num_codes, 1)
    return Audio((codes[:, 0] * 256 + codes[:, 1] - 32768).astype(np.int16), self.rate)


class Residual:
  """What an adaptive predictor leaves over of 16-bit samples, by its size and by what that leaves open.

  Small residuals have a first code each. Larger ones share it, with their sign, in eighths of an octave of up to 256
  values, of which the second code is one. The predictor, for which see `prediction.py`, knows no other sound; a decoder
  has to say how large a residual is to be expected, and not what a voice is made of.
  """

  medium, shared_range, exact = "audio", False, True
  num_codes, units_per_cell = (384, 256), 1
  _starts = np.array([*range(8), *((8 + eighth) << octave for octave in range(8) for eighth in range(8)),
                      *range(2048, 32768, 256)])
  _widths = np.diff(_starts, append=32768)

  def __init__(self, rate: int):
    self.rate = rate

  @property
  def fingerprint(self) -> str:
    return _fingerprint(f"residual {self.rate}")

  def encode(self, medium: Medium) -> np.ndarray:
    return self.encode_all([medium])[0]

  def encode_all(self, media: Sequence[Medium]) -> list[np.ndarray]:
    sounds = [conform.check_rate(conform.of_kind(medium, Audio), self.rate).samples for medium in media]
    return [self._codes(left.astype(np.int32)) for left in prediction.residuals(sounds)]

  def decode(self, codes: np.ndarray) -> Audio:
    return self.decode_all([codes])[0]

  def decode_all(self, codes: Sequence[np.ndarray]) -> list[Audio]:
    left = [self._residuals(conform.check_codes(one, self.num_codes, 1)) for one in codes]
    return [Audio(samples, self.rate) for samples in prediction.samples(left)]

  def _codes(self, left: np.ndarray) -> np.ndarray:
    size = np.where(left < 0, ~left, left)
    first = np.searchsorted(self._starts, size, "right") - 1
    count = len(self._starts)  # The first codes are in the order of the residuals.
    return np.stack([np.where(left < 0, count - 1 - first, count + first), size - self._starts[first]], -1
                    ).astype(np.int32)

  def _residuals(self, codes: np.ndarray) -> np.ndarray:
    """Of a second code that the first leaves no room for, and `encode` never makes, what room there is of it."""
    count = len(self._starts)
    negative = codes[:, 0] < count
    first = np.where(negative, count - 1 - codes[:, 0], codes[:, 0] - count)
    size = self._starts[first] + codes[:, 1] % self._widths[first]
    return np.where(negative, ~size, size)


def _fingerprint(name: str) -> str:
  return hashlib.sha256(f"gpt4x exact codec, {name}".encode()).hexdigest()[:16]
