"""Many media on one sheet, each with its caption: what a person looks at."""

import bisect
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from gpt4x.evaluation.features import FLOOR, log_mel
from gpt4x.media.medium import Audio, Image, Medium

_SIDE, _LARGEST = 96, 256  # Pixels to a side: smaller pictures are enlarged, larger ones made smaller.
_FRAMES = 8  # Of a video.
_WIDTH = 1200  # Of a sheet, roughly.
_GAP, _FONT, _LINES = 8, 12, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """A place on the sheet."""

  caption: str
  media: Sequence[Medium]  # One above the other: an original, and what became of it.


def contact_sheet(cells: Sequence[Cell]) -> Image:
  """The media of cells in rows: pictures, up to eight frames of a video in a strip, the loudness of a sound by pitch.

  Small pictures are enlarged by a whole factor, so that each pixel is seen.
  """
  from PIL import Image as pillow
  from PIL import ImageDraw, ImageFont

  font = ImageFont.load_default(_FONT)
  pictures = [[_fitted(picture(medium)) for medium in cell.media] for cell in cells]
  width = max([_SIDE, *(one.shape[1] for stack in pictures for one in stack)])
  columns = max(1, min(len(cells), _WIDTH // (width + _GAP)))
  heights = [sum(one.shape[0] + 2 for one in stack) + _LINES * (_FONT + 2) + _GAP for stack in pictures]
  tops = list(itertools.accumulate(
      (max(heights[start:start + columns]) for start in range(0, len(cells), columns)), initial=_GAP))
  sheet = pillow.new("RGB", (_GAP + columns * (width + _GAP), tops[-1]), "white")
  pen = ImageDraw.Draw(sheet)
  for number, (cell, stack) in enumerate(zip(cells, pictures)):
    left, top = _GAP + number % columns * (width + _GAP), tops[number // columns]
    for one in stack:
      sheet.paste(pillow.fromarray(one), (left, top))
      top += one.shape[0] + 2
    for line in _wrapped(cell.caption, width - 2, font):
      pen.text((left + 1, top), line, "black", font)
      top += _FONT + 2
  return Image(np.asarray(sheet))


def picture(medium: Medium) -> np.ndarray:
  """A medium as RGB pixels, uint8 [H, W, 3]."""
  if isinstance(medium, Audio):
    loudness = log_mel(medium).T[::-1]  # Low pitches below.
    loudest = max(loudness.max(), FLOOR / 2)  # What is quieter than half of the scale throughout stays dark.
    grey = np.round(255 * np.clip((loudness - FLOOR) / (loudest - FLOOR), 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)
  if isinstance(medium, Image):
    return np.broadcast_to(medium.pixels, (*medium.pixels.shape[:2], 3))
  count = min(_FRAMES, len(medium.frames))
  frames = medium.frames[np.linspace(0, len(medium.frames) - 1, count).round().astype(int)]
  frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
  return np.concatenate([np.pad(one, ((0, 0), (0, 1), (0, 0)), constant_values=255) for one in frames], 1)[:, :-1]


def _fitted(pixels: np.ndarray) -> np.ndarray:
  """Pixels enlarged to about _SIDE, or made smaller to at most _LARGEST; a strip may be as wide as a sheet."""
  from PIL import Image as pillow

  height, width = pixels.shape[:2]
  if (factor := min(_SIDE // height, (_WIDTH - 2 * _GAP) // width)) > 1:
    return pixels.repeat(factor, 0).repeat(factor, 1)
  shrink = min(1.0, _LARGEST / height, (_WIDTH - 2 * _GAP) / width)
  if shrink == 1:
    return np.ascontiguousarray(pixels)
  size = max(1, round(width * shrink)), max(1, round(height * shrink))
  return np.asarray(pillow.fromarray(np.ascontiguousarray(pixels)).resize(size, pillow.Resampling.BICUBIC))


def _wrapped(caption: str, width: int, font: Any) -> list[str]:
  """Lines of a caption, the last of which may be cut short."""
  text = "".join(one if one.isprintable() else " " for one in caption[:_LINES * width]).strip()  # A pixel a letter.
  lines: list[str] = []
  while text and len(lines) < _LINES:
    length = _fitting(text, width, font)
    if length == len(text):
      lines.append(text)
      break
    if len(lines) == _LINES - 1:
      lines.append(text[:_fitting(text, width - font.getlength("…"), font)] + "…")
      break
    if (blank := text.rfind(" ", 0, length + 1)) > 0:
      length = blank
    lines.append(text[:length])
    text = text[length:].strip()
  return lines


def _fitting(text: str, width: float, font: Any) -> int:
  """How many letters of a text, one at least, are at most so wide."""
  return max(1, bisect.bisect_right(range(len(text) + 1), width, key=lambda length: font.getlength(text[:length])) - 1)
