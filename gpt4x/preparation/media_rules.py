"""Rules for documents with an image or a sound: what can be decoded, its size, and its caption.

A document names its medium in the field "image" or "audio", as a path from its folder.
"""

import dataclasses
import functools

import gin
import numpy as np

from gpt4x.data.text_files import shown
from gpt4x.errors import one_line, require, UserError
from gpt4x.media.files import content, images, sounds
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.libraries import library

_FULL = 32767  # Of a sample: clipped ones have this or more.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Images:
  """Drops documents whose image cannot be decoded, is small, or is long and narrow; those with a sound stay.

  Reasons: "image_unreadable", "image_bytes", "image_side", "image_pixels", "image_aspect".

  Attributes:
    min_side: pixels of the shorter side, at least.
    max_pixels: of the whole image, at most.
    max_aspect: the longer side by the shorter, at most.
    min_bytes: of the file, at least.
  """

  min_side: int = 64
  max_pixels: int = 100_000_000
  max_aspect: float = 3.0
  min_bytes: int = 1024

  def __post_init__(self):
    require(self, "0 or more", lambda value: value >= 0, "min_side", "max_pixels", "min_bytes")
    require(self, "1 or more", lambda value: value >= 1, "max_aspect")

  def __call__(self, document: Document) -> Document | Dropped:
    path = _path(document, "image")
    if path is None:
      return document
    try:
      data, _ = content.read(path, "image")
      if len(data) < self.min_bytes:
        return Dropped("image_bytes", len(data))
      height, width = images.decode(data, path).pixels.shape[:2]  # All of it: many a file is cut off.
    except content.Unavailable:
      raise
    except UserError as error:
      return Dropped("image_unreadable", _said(error, document, "image"))
    shorter, longer = sorted((height, width))
    if shorter < self.min_side:
      return Dropped("image_side", shorter)
    if height * width > self.max_pixels:
      return Dropped("image_pixels", height * width)
    if longer > self.max_aspect * shorter:
      return Dropped("image_aspect", round(longer / shorter, 3))
    return document


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sounds:
  """Drops documents whose sound cannot be decoded, is short or long, silent, or clipped; those with an image stay.

  Reasons: "sound_unreadable", "sound_short", "sound_long", "sound_silent", "sound_clipped".

  Attributes:
    min_seconds: the length, at least.
    max_seconds: the length, at most.
    silence_db: below this level the whole is silent: the root mean square in dB of full scale.
    clipping: the share of samples at full scale, at most.
  """

  min_seconds: float = 0.5
  max_seconds: float = 3600.0
  silence_db: float = -60.0
  clipping: float = 0.01

  def __post_init__(self):
    require(self, "0 or more seconds", lambda value: value >= 0, "min_seconds")
    require(self, "seconds above min_seconds", lambda value: value > self.min_seconds, "max_seconds")
    require(self, "decibels of full scale, so 0 or less", lambda value: value <= 0, "silence_db")
    require(self, "a share from 0 to 1", lambda value: 0 <= value <= 1, "clipping")

  def __call__(self, document: Document) -> Document | Dropped:
    path = _path(document, "audio")
    if path is None:
      return document
    try:
      sound = sounds.read(path)
    except content.Unavailable:
      raise
    except UserError as error:
      return Dropped("sound_unreadable", _said(error, document, "audio"))
    seconds = len(sound.samples) / sound.rate
    if not self.min_seconds <= seconds <= self.max_seconds:
      return Dropped("sound_short" if seconds < self.min_seconds else "sound_long", round(seconds, 3))
    samples = sound.samples.astype(np.float64)
    power = np.mean(np.square(samples / (_FULL + 1)))
    level = 10 * np.log10(power) if power else -np.inf
    if level < self.silence_db:
      return Dropped("sound_silent", round(float(level), 1) if power else None)
    if (clipped := float(np.mean(np.abs(samples) >= _FULL))) > self.clipping:
      return Dropped("sound_clipped", round(clipped, 4))
    return document


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Caption:
  """Drops documents whose text is a short or a long one ("caption_short", "caption_long").

  Attributes:
    min_chars: characters of the text without blanks around it, at least.
    max_chars: the same, at most.
  """

  min_chars: int = 5
  max_chars: int = 2000

  def __post_init__(self):
    require(self, "0 or more", lambda value: value >= 0, "min_chars")
    require(self, "min_chars or more", lambda value: value >= self.min_chars, "max_chars")

  def __call__(self, document: Document) -> Document | Dropped:
    length = len(document.text.strip())
    if self.min_chars <= length <= self.max_chars:
      return document
    return Dropped("caption_short" if length < self.min_chars else "caption_long", length)


def image_key(path: str) -> int:
  """A perceptual hash of an image file, 64 bits: of like images, most bits are the same.

  It has the signs of the lowest 8 x 8 frequencies of a discrete cosine transform (pHash; Zauner, 2010), by ImageHash.

  Raises:
    UserError: it is no image, or ImageHash is not installed.
  """
  pixels = images.read(path).pixels
  from_array = library("PIL.Image", "image_key").fromarray
  image = from_array(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
  bits = library("imagehash", "image_key").phash(image).hash
  return functools.reduce(lambda key, bit: key << 1 | int(bit), bits.flat, 0)


def _path(document: Document, medium: str) -> str | None:
  """The path of a document's image or sound; None if it has one of the other kind."""
  if (path := document.path(medium)) is not None:
    return path
  if not document.fields.keys() & {"image", "audio"}:
    raise UserError(f"{document.name} has neither \"image\" nor \"audio\" in its fields: leave the rules of media out"
                    " where documents have none")
  return None


def _said(error: UserError, document: Document, medium: str) -> str:
  """What an error says, with the file named as in the document: the same wherever the input lies."""
  return one_line(str(error).replace(shown(str(document.path(medium))), shown(str(document.fields[medium]))))
