"""Media of any size and rate, made to fit a codec as MediaTokens has it."""

import dataclasses
from typing import Any

from gpt4x.media.medium import Audio, Codec, Image, Medium, Video


def fit(medium: Medium, codec: Codec, settings: dict[str, Any]) -> Medium:
  """The medium with the size and rate that `settings` (MediaTokens.settings) ask for; a codec refuses what is left."""
  if isinstance(medium, Audio):
    rate = getattr(codec, "rate", medium.rate)
    if rate == medium.rate or not settings["resample"]:
      return medium
    from gpt4x.media.files import sounds
    return sounds.resample(medium, rate)
  height, width = (medium.pixels if isinstance(medium, Image) else medium.frames).shape[-3:-1]
  wanted = fitted_size(height, width, getattr(codec, "patch", 1), settings["image_size"], settings["max_side"])
  if wanted == (height, width):
    return medium
  if isinstance(medium, Video):
    from gpt4x.media.files import videos
    return videos.resize(medium, *wanted)
  from gpt4x.media.files import images
  return dataclasses.replace(medium, pixels=images.resize(medium.pixels, *wanted))


def fitted_size(height: int, width: int, patch: int, image_size: tuple[int, int] | None,
                max_side: int | None) -> tuple[int, int]:
  """The height and width that a picture is resized to."""
  if image_size is not None:
    return image_size[0], image_size[1]
  if max_side is None or not height or not width:
    return height, width
  scale = min(1.0, max_side / max(height, width))
  # A side's nearest multiple may be longer than `max_side`.
  most = max(max_side // patch, 1)
  patches = (min(max(round(side * scale / patch), 1), most) for side in (height, width))
  return tuple(count * patch for count in patches)  # type: ignore[return-value]
