"""How files become codes: what is read of them, made to fit and encoded, kept by `prepared_codes`."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from gpt4x.data.objects import Stat
from gpt4x.errors import UserError
from gpt4x.media import fitting, prepared_codes
from gpt4x.media.conform import to_channels
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Codec, Image, Medium
from gpt4x.media.prepared_codes import Recipe

Codes = np.ndarray | tuple[np.ndarray, np.ndarray] | UserError  # Of a video with sound, those of both.


def read(medium: str, path: str, options: Mapping[str, Any],
         change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels) -> Medium:
  """What a file holds, as far as `options` (of LocalMedia) have it count; `change` is for each frame of a video."""
  if medium == "image":
    return images.read(path)
  if medium == "audio":
    return sounds.read(path, options["seconds"])
  return videos.read(path, options["fps"], options["seconds"], options["stream"], change, sound=False)


def codes(files: Sequence[tuple[str, Stat]], options: Mapping[str, Any], vocabulary: Any
          ) -> dict[tuple[str, str], Codes]:
  """The codes of each (medium, path), by the codecs of a vocabulary, or what is wrong with the file."""
  found = dict[tuple[str, str], Codes]()
  for medium in dict.fromkeys(medium for medium, _ in files):
    stats = [stat for one, stat in files if one == medium]
    if medium not in vocabulary.codecs:
      raise UserError(f"{stats[0][0]} is {medium}, and the vocabulary has no {medium} tokens: set MediaTokens.{medium},"
                      f" or leave the {medium} out")
    codec, settings = vocabulary.codecs[medium], vocabulary.settings
    known = {name: options[name] for name in _OPTIONS[medium]} | _fitting(settings)
    fit: Callable[[Any], Any] = functools.partial(fitting.fit, codec=codec, settings=settings)
    # A video need never be whole in memory at its own size.
    change = lambda pixels: fit(Image(pixels)).pixels
    recipe = Recipe(medium, codec, known, lambda path: fit(read(medium, path, options, change)))
    found |= {(medium, path): one for (path, *_), one in zip(stats, prepared_codes.of_files(stats, recipe))}
    if medium == "video" and "audio" in vocabulary.codecs:
      found |= _with_sound(stats, found, options, vocabulary)
  return found


def _fitting(settings: Mapping[str, Any]) -> dict[str, Any]:
  """What decides the codes; the sizes that a vocabulary has do not."""
  return {name: value for name, value in settings.items() if name != "sizes"}


_OPTIONS: dict[str, tuple[str, ...]] = {"image": (), "audio": ("seconds",), "video": ("fps", "seconds", "stream")}


def _with_sound(stats: Sequence[Stat], found: Mapping[Any, Any], options: Mapping[str, Any], vocabulary: Any
                ) -> dict[tuple[str, str], Codes]:
  """The codes of those videos that have sound, with those of the sound."""
  codec, settings = vocabulary.codecs["audio"], vocabulary.settings

  def read_sound(path: str) -> Audio | None:
    sound = videos.read_sound(path, options["seconds"], options["stream"])
    return sound and fitting.fit(sound, codec, settings)  # type: ignore[return-value]

  known = {name: options[name] for name in ("seconds", "stream")} | _fitting(settings)
  recipe = Recipe("sound", _OrNone(codec), known, read_sound)
  both = dict[tuple[str, str], Codes]()
  for (path, *_), sound in zip(stats, prepared_codes.of_files(stats, recipe)):
    pictures = found["video", path]
    if isinstance(pictures, UserError):
      continue
    if isinstance(sound, UserError):
      both["video", path] = sound
    elif len(sound):
      both["video", path] = pictures, sound
  return both


@dataclasses.dataclass(frozen=True)
class _OrNone:
  """A codec of sounds that gives no codes for no sound."""

  codec: Codec

  @property
  def fingerprint(self) -> str:
    return self.codec.fingerprint

  def encode_all(self, media: Sequence[Audio | None]) -> list[np.ndarray]:
    codes = iter(self.codec.encode_all([sound for sound in media if sound is not None]))
    return [np.zeros((0, len(self.codec.num_codes)), np.int32) if sound is None else next(codes) for sound in media]


# For the training of codecs: the media themselves, at the size that all have.


class _Raw:
  """Takes arrays for their own codes."""

  fingerprint = "raw"

  def encode_all(self, media: Sequence[Any]) -> list[np.ndarray]:
    return [one.array for one in media]


@dataclasses.dataclass(frozen=True)
class _Array:
  array: np.ndarray


_RAW_OPTIONS = {"image": ("size", "channels", "crop"), "audio": ("seconds", "rate", "resample"),
                "video": ("fps", "seconds", "stream", "size", "channels", "crop")}


def raw(medium: str, stats: Sequence[Stat], options: Mapping[str, Any]) -> list[np.ndarray | UserError]:
  """Pixels [H, W, C] or [T, H, W, C], where each side is `size` and `crop`; or samples [T], raised by 32768."""

  def picture(pixels: np.ndarray) -> np.ndarray:
    height, width = (side + options["crop"] for side in options["size"])
    return to_channels(images.cover(pixels, height, width), options["channels"])

  def array(path: str) -> _Array:
    if medium == "image":
      return _Array(picture(images.read(path).pixels))
    if medium == "video":
      return _Array(getattr(read(medium, path, options, picture), "frames"))  # noqa: B009  Of a Video.
    sound = read("audio", path, options)
    assert isinstance(sound, Audio)
    if sound.rate != options["rate"] and not options["resample"]:
      raise UserError(f"{path} has {sound.rate} samples a second, and LocalMedia.rate = {options['rate']}: set that, or"
                      " LocalMedia.resample = True")
    return _Array(sounds.resample(sound, options["rate"]).samples.astype(np.int32) + 32768)

  known = {name: options[name] for name in _RAW_OPTIONS[medium]}
  return prepared_codes.of_files(stats, Recipe(medium, _Raw(), known, array))
