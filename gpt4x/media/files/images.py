"""Image files and their pixels: PNG, JPEG, WebP and GIF, by Pillow."""

import io
import os
from typing import Any

import numpy as np

from gpt4x import storage
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media.conform import to_channels
from gpt4x.media.files import content
from gpt4x.media.medium import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# How a name's suffix is written. What is lossless stays so.
_WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}), ".jpg": ("JPEG", {"quality": 95}), ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"lossless": True}), ".gif": ("GIF", {})}


def read(path: str | os.PathLike) -> Image:
  """The pixels of an image file, upright, as grey [H, W, 1] or RGB [H, W, 3].

  What is transparent lies on white. Sixteen bits become the eight nearest. Of a GIF that moves, it is the first frame.
  """
  path = os.fspath(path)
  return decode(content.read(path, "image")[0], path)


def decode(data: bytes, name: str, most_pixels: int | None = None) -> Image:
  """The pixels of a file's content; the name is for messages. An image of more than so many is not decoded."""
  import PIL.Image
  import PIL.ImageOps

  with content.decoding(name, "image"), PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
    if most_pixels is not None and opened.width * opened.height > most_pixels:
      raise UserError(f"{shown(name)} has {opened.width} x {opened.height} pixels, and there is room for"
                      f" {most_pixels:,}: scale it down")
    return Image(pixels_of(PIL.ImageOps.exif_transpose(opened)))


def pixels_of(image) -> np.ndarray:
  """[H, W, C] of an image of Pillow, whose own conversion would cut sixteen bits off at 255."""
  if image.mode.startswith("I"):
    wide = np.asarray(image).astype(np.uint32)
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)[..., None]
  if "A" in image.mode or "transparency" in image.info:
    grey = image.mode in ("1", "L", "LA")
    return to_channels(np.array(image.convert("LA" if grey else "RGBA")), 1 if grey else 3)
  if image.mode not in ("L", "RGB"):
    image = image.convert("L" if image.mode == "1" else "RGB")
  found = np.array(image)
  return found[..., None] if found.ndim == 2 else found


def write(image: Image, path: str | os.PathLike) -> None:
  """Writes an image; the suffix decides the format."""
  import PIL.Image

  target = storage.path(path)
  if (suffix := target.suffix.lower()) not in _WRITTEN:
    raise UserError(f"cannot write an image to {shown(os.fspath(path))}: end the name in one of {', '.join(_WRITTEN)}")
  name, options = _WRITTEN[suffix]
  buffer = io.BytesIO()
  PIL.Image.fromarray(image.pixels[..., 0] if image.pixels.shape[-1] == 1 else image.pixels).save(
      buffer, name, **options)
  storage.make_directory(target.parent)
  storage.write(target, buffer.getvalue())


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
  """Pixels [H, W, C] at another size, antialiased; uint8 stays uint8."""
  if pixels.shape[:2] == (height, width):
    return pixels
  import PIL.Image

  grey = pixels.shape[-1] == 1
  image = PIL.Image.fromarray(pixels[..., 0] if grey else pixels)
  resized = np.array(image.resize((width, height), PIL.Image.Resampling.BICUBIC))
  return resized[..., None] if grey else resized


def cover(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
  """The middle of an image at this size: scaled, in proportion, until it covers the size, then cut."""
  scale = max(height / pixels.shape[0], width / pixels.shape[1])
  scaled = resize(pixels, max(height, round(pixels.shape[0] * scale)), max(width, round(pixels.shape[1] * scale)))
  top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
  return scaled[top:top + height, left:left + width]
