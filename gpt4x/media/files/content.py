"""What a media file is, by its content: a name may say anything."""

from collections.abc import Iterator
import contextlib
import importlib
import re
from typing import Any

from gpt4x import storage
from gpt4x.data.text_files import shown
from gpt4x.errors import one_line, UserError


class Unavailable(UserError):
  """A file cannot be read here and now, whatever it holds."""


_HEADS = (  # Format, medium, place and bytes of the mark; the first that fits.
    ("PNG", "image", 0, b"\x89PNG\r\n\x1a\n"), ("JPEG", "image", 0, b"\xff\xd8\xff"), ("GIF", "image", 0, b"GIF8"),
    ("WebP", "image", 8, b"WEBP"), ("WAV", "audio", 8, b"WAVE"), ("FLAC", "audio", 0, b"fLaC"),
    ("Opus", "audio", 28, b"OpusHead"), ("Ogg", "audio", 0, b"OggS"), ("MP3", "audio", 0, b"ID3"),
    ("M4A", "audio", 4, b"ftypM4A"), ("MP4", "video", 4, b"ftyp"), ("WebM", "video", 0, b"\x1a\x45\xdf\xa3"),
    ("AVI", "video", 8, b"AVI "))
_ARTICLE = {"image": "an image", "audio": "a sound", "video": "a video"}


def read(path: str, medium: str) -> tuple[bytes, str]:
  """The content of a file that is to be of a medium, and its format; a UserError if it is another or none.

  A GIF may be a video too, and a container of videos may hold nothing but sound.
  """
  try:
    content = storage.read_bytes(storage.path(path))
  except UserError as error:  # Of a store.
    raise Unavailable(str(error)) from error
  except OSError as error:
    raise Unavailable(f"cannot read {shown(path)} ({error.strerror or 'there is none'}): correct the path") from error
  if not content:
    raise UserError(f"{shown(path)} is empty (0 bytes): copy it again, or take it out")
  name, found = identify(content)
  if medium == "image" and not found:
    raise UserError(f"{shown(path)} is of no known format of images, whatever its name says: convert it to PNG or JPEG")
  if found not in (medium, ""):
    if (name, medium) != ("GIF", "video") and (found, medium) != ("video", "audio"):
      raise UserError(f"{shown(path)} is {_ARTICLE[found]} ({name}), whatever its name says, and not {_ARTICLE[medium]}"
                      f": name {_ARTICLE[medium]}, or give it as {found}")
  return content, name


def identify(content: bytes) -> tuple[str, str]:
  """(format, medium) of what a file holds; two empty strings if nothing is known of it."""
  for name, medium, place, mark in _HEADS:
    if content[place:place + len(mark)] == mark:
      return name, medium
  if len(content) > 1 and content[0] == 0xff and content[1] & 0xe6 == 0xe2:  # The first frame: MPEG audio, layer III.
    return "MP3", "audio"
  return "", ""


@contextlib.contextmanager
def decoding(path: str, medium: str) -> Iterator[None]:
  """Within it, whatever a library says of a file becomes a UserError that names it."""
  try:
    yield
  except (UserError, MemoryError):
    raise
  except Exception as error:  # Libraries raise many kinds at a damaged file.  pylint: disable=broad-exception-caught
    reason = re.sub(r"<[^<>]*BytesIO[^<>]*>", "it", str(error)) or type(error).__name__
    raise UserError(f"{shown(path)} cannot be read as {_ARTICLE[medium]} ({one_line(reason, 120)}): it is cut off,"
                    " damaged or of an unknown format; copy it again, or convert it") from error


def library(name: str, path: str, what: str) -> Any:
  """A module of the extra `media`; a UserError that says so where it is not installed."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise Unavailable(f"{shown(path)}: {what} needs {name}, which is not installed: pip install 'gpt4x[media]'"
                      ) from error
