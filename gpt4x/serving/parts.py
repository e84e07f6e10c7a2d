"""The parts of a message: texts, and media that come with the request. Nothing is fetched."""

import base64
import binascii
from collections.abc import Mapping, Sequence
import math
from typing import Any
import warnings

import PIL.Image

from gpt4x.errors import UserError
from gpt4x.inference import media
from gpt4x.media.files import content, images, sounds
from gpt4x.media.medium import Audio, Image, Medium

# Of all media of a request together. What an image has is told by its file, before it is decoded.
MOST_MEDIA, MOST_PIXELS, MOST_SECONDS = 32, 2**24, 120.0
HIGHEST_RATE = 192_000  # A filter between rates is as long as they are high.
_FORMATS = {"image": ("PNG", "JPEG", "WebP", "GIF"), "audio": ("WAV",)}  # What is decoded here, by what bytes say.
_MEDIUM = {"image_url": "image", "input_audio": "audio"}

# Which Pillow has of images that are refused here; a file should not have it written into the log.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


class Parts:
  """Turns what messages hold into ids, as `gpt4x generate` does."""

  def __init__(self, vocabulary: Any, seconds: float | None):
    """Takes the model's vocabulary, and how much of a sound it was trained on; None: all."""
    self._vocabulary, self._seconds = vocabulary, seconds

  def encode(self, contents: Sequence[str | Sequence[Mapping[str, Any]]]) -> list[list[int]]:
    """The ids of each message's content, a text or parts in their order; a UserError for what is not taken."""
    messages = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
    kinds = [_MEDIUM[part["type"]] for parts in messages for part in parts if part["type"] != "text"]
    for medium in sorted(set(kinds)):
      media.codec_of(self._vocabulary, medium)
    if len(kinds) > MOST_MEDIA:
      raise UserError(f"the messages have {len(kinds)} images and sounds, and at most {MOST_MEDIA} are taken: leave"
                      " some out")
    room = _Room()
    return [self._ids([self._read(part, f"message {number}", room) for part in parts])
            for number, parts in enumerate(messages, 1)]

  def _ids(self, parts: Sequence[str | Medium]) -> list[int]:
    if any(not isinstance(part, str) for part in parts):
      return [int(token) for token in self._vocabulary.encode_parts(parts)]
    return list(self._vocabulary.encode("".join(map(str, parts))))

  def _read(self, part: Mapping[str, Any], where: str, room: "_Room") -> str | Medium:
    if part["type"] == "text":
      return part["text"]
    medium = _MEDIUM[part["type"]]
    name = f"the {medium} of {where}"
    if medium == "image":
      head, comma, written = part["image_url"]["url"].partition(",")
      if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise UserError(f"{name} is no data:image/...;base64, URL: send it as one")
      return room.image(_unpacked(written, name, medium), name)
    return room.sound(_unpacked(part["input_audio"]["data"], name, medium), name, self._seconds)


class _Room:
  """What a request may still have of pixels and seconds."""

  def __init__(self) -> None:
    self._pixels, self._seconds = MOST_PIXELS, MOST_SECONDS

  def image(self, data: bytes, name: str) -> Image:
    found = images.decode(data, name, self._pixels)
    self._pixels -= math.prod(found.pixels.shape[:2])
    return found

  def sound(self, data: bytes, name: str, seconds: float | None) -> Audio:
    """A sound, or its first seconds."""
    whole = sounds.decode_wav(data, name)
    if whole.rate > HIGHEST_RATE:
      raise UserError(f"{name} has {whole.rate:,} samples a second, more than {HIGHEST_RATE:,}: convert it")
    found = Audio(whole.samples[:None if seconds is None else max(1, round(seconds * whole.rate))], whole.rate)
    self._seconds -= len(found.samples) / found.rate
    if self._seconds < 0:
      raise UserError(f"with {name} there are more than {MOST_SECONDS:g} seconds of sound: cut it, or leave some out")
    return found


def _unpacked(written: str, name: str, medium: str) -> bytes:
  """The bytes of base64 that are of a format which is decoded here."""
  try:
    data = base64.b64decode(written, validate=True)
  except (binascii.Error, ValueError):
    raise UserError(f"{name} is no base64: encode its bytes so") from None
  if content.identify(data)[0] not in _FORMATS[medium]:
    raise UserError(f"{name} is of another format than {', '.join(_FORMATS[medium])}: convert it")
  return data
