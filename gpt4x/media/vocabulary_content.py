"""What a vocabulary of media is made of, as one file: its settings, its text vocabulary, and its codecs' own files."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio

from gpt4x import storage
from gpt4x.data import objects, vocabularies
from gpt4x.data.vocabularies import composed
from gpt4x.data.vocabularies.files import Missing
from gpt4x.errors import UserError
from gpt4x.media.layout import Layout, Tokens
from gpt4x.media.medium import Codec, MEDIA
from gpt4x.media.tokens import MediaTokens

_SETTINGS = "settings.json"
_EXACT = {"image": "grey, rgb", "audio": "pcm:RATE, residual:RATE", "video": ""}


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
  """A vocabulary's parts."""

  settings: dict[str, Any]  # MediaTokens.settings.
  text: seqio.Vocabulary
  names: dict[str, str]  # Of the exact codecs, by their medium.
  codecs: dict[str, Codec]  # Of each medium that has one.

  @functools.cached_property
  def layout(self) -> Layout:
    tokens = {medium: Tokens(tuple(codec.num_codes), codec.shared_range) for medium, codec in self.codecs.items()}
    image, video = self.codecs.get("image"), self.codecs.get("video")
    return Layout(self.text.vocab_size, self.text.eos_id, **tokens, num_sizes=self.settings["sizes"],
                  video_is_image=bool(image and video and image.fingerprint == video.fingerprint))

  def describe(self) -> dict[str, str]:
    """Its parts by name, for people: the class of the text's, and a codec's name or fingerprint."""
    codecs = {medium: self.names.get(medium) or codec.fingerprint for medium, codec in self.codecs.items()}
    return {"text": vocabularies.spec(self.text)["class"], **codecs}


# What MediaTokens names.


def found(tokens: MediaTokens, text: seqio.Vocabulary | None = None) -> bytes:
  """The content of what MediaTokens names now; `text` takes the place of its text vocabulary."""
  files = composed.files_of(text or composed.text_of(tokens.text))
  settings, media = tokens.settings, {}
  for medium in MEDIA:
    if (name := getattr(tokens, medium)) is None:
      continue
    if is_exact(medium, name):
      media[medium] = name
    else:
      media[medium] = ""
      files |= {f"{medium}/{file}": content for file, content in _codec(medium, name).files.items()}
  settings["media"] = media
  return composed.packed({_SETTINGS: json.dumps(settings).encode()} | dict(sorted(files.items())))


def is_exact(medium: str, name: str) -> bool:
  return name in _EXACT[medium].split(", ") or medium == "audio" and name.startswith(("pcm:", "residual:"))


def _exact(medium: str, name: str) -> Codec:
  from gpt4x.media import exact

  if medium == "image":
    return {"grey": exact.GreyPixels, "rgb": exact.RgbPixels}[name]()
  kind, _, rate = name.partition(":")
  if not re.fullmatch(r"[1-9]\d{0,6}", rate):
    raise UserError(f"MediaTokens.audio = {name!r} has no sample rate: write it as in {kind}:8000")
  codec: Any = {"pcm": exact.Pcm, "residual": exact.Residual}[kind](int(rate))
  return codec


def _codec(medium: str, directory: str) -> Any:
  """The codec of a directory; read again only when its files have changed."""
  from gpt4x.media import codec_files

  names = codec_files.CONFIG, codec_files.TENSORS
  try:
    versions = [_version(storage.path(directory) / name) for name in names]
  except OSError:
    versions = None
  try:
    return _load(medium, directory, *versions) if versions else codec_files.load(directory)
  except UserError as error:
    known = f", or name one of {_EXACT[medium]}" if _EXACT[medium] and not versions else ""
    raise (UserError if versions else Missing)(f"MediaTokens.{medium} = {directory!r}: {error}{known}") from error


def _version(path: pathlib.Path) -> Any:
  if storage.is_remote(path):
    return objects.stat(str(path))
  stat = path.stat()
  return stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _load(medium: str, directory: str, *versions: Any) -> Any:
  del versions
  from gpt4x.media import codec_files
  return codec_files.load(directory).of(medium)


# Bytes.


@functools.lru_cache(maxsize=4)
def unpacked(content: bytes, file: str) -> Content:
  """The parts; `file` is for messages alone."""
  try:
    files = composed.unpacked(content)
    settings = json.loads(files.pop(_SETTINGS))
    names, codecs = settings.pop("media"), dict[str, Codec]()
    for medium, name in names.items():
      codecs[medium] = _exact(medium, name) if name else _of_files(medium, composed.below(files, medium), file)
    if settings["image_size"]:
      settings["image_size"] = tuple(settings["image_size"])
    text = composed.text_in(files)
  except (KeyError, ValueError, AttributeError) as error:
    raise UserError(f"{file} holds no vocabulary of media ({error}): copy it again") from error
  return Content(settings, text, {medium: name for medium, name in names.items() if name}, codecs)


def _of_files(medium: str, files: Mapping[str, bytes], file: str) -> Codec:
  from gpt4x.media import codec_files
  return codec_files.of_files(files, f"{file}, {medium}").of(medium)
