"""The parts of a message: texts, and media that come with the request. Nothing is fetched."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from gpt4x.errors import UserError
from gpt4x.inference import media
from gpt4x.media.files import content, images, sounds
from gpt4x.media.medium import Audio, Medium

MOST_PIXELS = 2**24  # Of an image, which its file says before it is decoded.
_FORMATS = {"image": ("PNG", "JPEG", "WebP", "GIF"), "audio": ("WAV",)}  # What is decoded here, by what bytes say.


class Parts:
  """Turns what a message holds into ids, as `gpt4x generate` does."""

  def __init__(self, vocabulary: Any, seconds: float | None):
    """Takes the model's vocabulary, and how much of a sound it was trained on; None: all."""
    self._vocabulary, self._seconds = vocabulary, seconds

  def encode(self, contents: str | Sequence[Mapping[str, Any]], where: str) -> list[int]:
    """The ids of a text, or of parts in their order; a UserError for what the model does not take."""
    if isinstance(contents, str):
      contents = [{"type": "text", "text": contents}]
    parts = [self._read(part, where) for part in contents]
    if any(not isinstance(part, str) for part in parts):
      return [int(token) for token in self._vocabulary.encode_parts(parts)]
    return list(self._vocabulary.encode("".join(map(str, parts))))

  def _read(self, part: Mapping[str, Any], where: str) -> str | Medium:
    kind = part["type"]
    if kind == "text":
      return part["text"]
    medium = {"image_url": "image", "input_audio": "audio"}[kind]
    name, known = f"the {medium} of {where}", media.known(self._vocabulary)
    if medium not in known:
      raise UserError(f"{where} has a part of the type {kind!r}, and the model reads {' and '.join(('text', *known))}:"
                      " leave it out")
    if medium == "image":
      head, comma, written = part["image_url"]["url"].partition(",")
      if not comma or not head.endswith(";base64"):
        raise UserError(f"{name} is no data:image/...;base64, URL: send it as one")
      return images.decode(_unpacked(written, name, medium), name, MOST_PIXELS)
    return self._beginning(sounds.decode_wav(_unpacked(part["input_audio"]["data"], name, medium), name))

  def _beginning(self, sound: Audio) -> Audio:
    count = None if self._seconds is None else max(1, round(self._seconds * sound.rate))
    return Audio(sound.samples[:count], sound.rate)


def _unpacked(written: str, name: str, medium: str) -> bytes:
  """The bytes of base64 that are of a format which is decoded here."""
  try:
    data = base64.b64decode(written, validate=True)
  except (binascii.Error, ValueError):
    raise UserError(f"{name} is no base64: encode its bytes so") from None
  if content.identify(data)[0] not in _FORMATS[medium]:
    raise UserError(f"{name} is of another format than {', '.join(_FORMATS[medium])}: convert it")
  return data
