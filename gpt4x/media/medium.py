"""What a medium is, as arrays, and what a codec makes of it."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
  """A picture."""

  pixels: np.ndarray  # uint8 [H, W, C]; C is 1 (grey) or 3 (RGB).
  medium: ClassVar[str] = "image"


@dataclasses.dataclass(frozen=True, eq=False)
class Audio:
  """A sound with one channel."""

  samples: np.ndarray  # int16 [T]
  rate: int  # Samples a second.
  medium: ClassVar[str] = "audio"


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
  """Pictures of one size, and the sound beside them."""

  frames: np.ndarray  # uint8 [T, H, W, C]
  fps: float
  sound: Audio | None = None
  medium: ClassVar[str] = "video"


Medium = Image | Audio | Video
MEDIA = ("image", "audio", "video")


class Codec(Protocol):
  """Turns a medium into codes and back.

  A cell (a patch of an image, a frame of a sound, a patch of some frames of a video) has K codes. An image's codes are
  int32 [h, w, K], a sound's [t, K], a video's [t, h, w, K].
  """

  medium: str  # One of MEDIA.
  num_codes: tuple[int, ...]  # How many values each of the K codes has.
  shared_range: bool  # Whether all K have one range of ids, as the channels of a pixel, or each has its own.
  exact: bool  # Whether nothing is lost, so that the codes' likelihood is that of the medium.
  units_per_cell: int  # What a cell stands for: pixels times channels, or samples of sound.

  @property
  def fingerprint(self) -> str:
    """Sixteen hexadecimal digits that change with whatever may change a code."""

  def encode_all(self, media: Sequence[Medium]) -> list[np.ndarray]:
    """The codes of media, each for itself; a UserError for a medium that the codec does not take."""

  def decode(self, codes: np.ndarray) -> Medium:
    """The medium of codes, whatever their h, w and t."""
