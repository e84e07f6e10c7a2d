"""Codecs that lose nothing: pixels and PCM, a byte a code. The likelihood of their codes is that of the medium."""

from collections.abc import Sequence
import hashlib

import numpy as np

from gpt4x.media import conform
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


def _fingerprint(name: str) -> str:
  return hashlib.sha256(f"gpt4x exact codec, {name}".encode()).hexdigest()[:16]
