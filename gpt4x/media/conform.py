"""What a codec takes and gives back: a medium is made to fit where that loses nothing that matters, else refused."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from gpt4x.errors import UserError
from gpt4x.media.medium import Audio, Image, Medium, Video

Kind = TypeVar("Kind", Image, Audio, Video)


def of_kind(given: Medium, kind: type[Kind]) -> Kind:
  """The medium, which must be of this kind."""
  if not isinstance(given, kind):
    raise UserError(f"this codec is of {kind.medium}, and {given.medium} was given: name a codec of {given.medium}")
  return given


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
  """Pixels uint8 [..., C] with 1 (grey), 2 (and opacity), 3 (RGB) or 4 channels as those with 1 or 3.

  Grey is the luma of ITU-R BT.601. What is not opaque lies on white.
  """
  if pixels.dtype != np.uint8:
    raise UserError(f"pixels are {pixels.dtype}: give uint8, from 0 to 255")
  if (count := pixels.shape[-1]) in (2, 4):
    opacity = pixels[..., -1:].astype(np.int32)
    shown = pixels[..., :-1] * opacity + 255 * (255 - opacity)
    pixels = ((shown + 127) // 255).astype(np.uint8)
  elif count not in (1, 3):
    raise UserError(f"pixels have {count} channels: give 1 (grey), 3 (RGB), or either with opacity")
  if pixels.shape[-1] == channels:
    return pixels
  if channels == 3:
    return np.repeat(pixels, 3, -1)
  luma = pixels.astype(np.int32) @ np.array([299, 587, 114], np.int32)
  return ((luma[..., None] + 500) // 1000).astype(np.uint8)


def check_rate(audio: Audio, rate: int) -> Audio:
  """The sound, which must have so many samples a second."""
  if audio.rate != rate:
    raise UserError(f"a sound has {audio.rate} samples a second, and the codec takes {rate}: convert it, or set"
                    " MediaTokens.resample")
  return audio


def check_multiple(pixels: np.ndarray, patch: int) -> np.ndarray:
  """Pixels [..., H, W, C], whose sides must be multiples of a patch's."""
  height, width = pixels.shape[-3:-1]
  if not height or not width or height % patch or width % patch:
    raise UserError(f"a picture is {height} high and {width} wide, and the codec takes multiples of {patch}: resize it,"
                    " or set MediaTokens.image_size or max_side")
  return pixels


def check_codes(codes: np.ndarray, num_codes: Sequence[int], num_axes: int) -> np.ndarray:
  """Codes int32 [*cells, K], which must be ones of so many each."""
  codes = np.asarray(codes)
  if codes.ndim != num_axes + 1 or codes.shape[-1] != len(num_codes) or codes.dtype.kind not in "iu":
    raise UserError(f"codes are {codes.dtype} {list(codes.shape)}: give whole numbers, {num_axes} axes of cells and one"
                    f" of {len(num_codes)} codes")
  if wrong := (codes[(codes < 0) | (codes >= np.asarray(num_codes))].tolist()):
    raise UserError(f"{wrong[0]} is no code: those of this codec are from 0 to {max(num_codes) - 1}")
  return codes.astype(np.int32)
