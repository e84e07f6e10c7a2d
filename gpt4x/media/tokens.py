"""MediaTokens: what gin says of the vocabulary of a model of media."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import gin

from gpt4x.errors import nearest, refuse, require, UserError
from gpt4x.media.layout import MODALITIES


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MediaTokens:
  """The text and the codecs that make the one vocabulary, and how media are made to fit the codecs.

  Attributes:
    text: `bytes`, a SentencePiece model by its name or path, or the directory of a run, whose vocabulary is meant.
    image: `grey` or `rgb`, which code each pixel, or the directory of a codec; None: the vocabulary has no images.
    audio: `pcm:RATE` or `residual:RATE`, which code each sample, or the directory of a codec.
    video: the directory of a codec; it may be that of images, which then shares its ids.
    sizes: the most rows of cells of an image or a video, and cells of a row.
    image_size: pixels that every image and video is resized to: a height and a width, or one number for both.
    max_side: without `image_size`, larger ones are resized so that no side is longer, in proportion.
    resample: whether sounds of another rate than the codec's are brought to it; if not, they are refused.
    loss_weights: what a target counts for, by its modality. Unless told, text and structure count for 1, images and
      videos for 0.5, a code of sound for 1 / codebooks, and whatever an exact codec makes for 1.
  """

  text: str = "bytes"
  image: str | None = None
  audio: str | None = None
  video: str | None = None
  sizes: int = 64
  image_size: int | Sequence[int] | None = None
  max_side: int | None = None
  resample: bool = False
  loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.image_size is not None:  # Which gin may give as a list.
      size = self.image_size
      object.__setattr__(self, "image_size", (size, size) if isinstance(size, int) else tuple(size))
    whole = lambda value: isinstance(value, int) and value >= 1
    require(self, "a whole number from 1 on", whole, "sizes", "max_side")
    require(self, "one or two whole numbers from 1 on", lambda size: len(size) == 2 and all(map(whole, size)),
            "image_size")
    for name in self.loss_weights:
      if name not in MODALITIES:
        raise UserError(f"MediaTokens.loss_weights names {name!r}{nearest(name, MODALITIES)}")
    refuse(self, not all(isinstance(one, (int, float)) and 0 <= one < float("inf")
                         for one in self.loss_weights.values()), "loss_weights", "must have numbers of at least 0")

  @property
  def settings(self) -> dict[str, Any]:
    """As JSON, all but the codecs and the text that decides the ids of a medium."""
    size = self.image_size
    return {"sizes": self.sizes, "image_size": list(size) if isinstance(size, Sequence) else None,
            "max_side": self.max_side, "resample": self.resample}
