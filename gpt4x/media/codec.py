"""A codec that was trained: media to codes and back, many at a time."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
import copy
import functools
import hashlib
import math
from typing import Any

import jax
import numpy as np

from gpt4x.errors import UserError
from gpt4x.media import conform
from gpt4x.media.codec_module import CodecConfig, CodecModule, from_cells, scaled, to_cells, unscaled
from gpt4x.media.medium import Audio, Image, Medium, Video

_ROWS = 16  # Media at a time, always as many, so that none is coded otherwise alone than among others.
_MOST_UNITS = 1 << 22  # Of larger media fewer at a time.
_TIME_STEP = 8  # Several cells of time are filled up to a multiple: what comes later changes nothing.


class LearnedCodec:
  """See `medium.Codec`. One of images may be one of videos as well, frame by frame, and one of videos one of images."""

  shared_range = exact = False

  def __init__(self, config: CodecConfig, params: Any, files: Mapping[str, bytes]):
    """Takes what `codec_files` has read; `files` are the codec's own, by name."""
    self.config, self.params, self.files, self.medium = config, params, dict(files), str(config.medium)
    self.num_codes, self.units_per_cell = config.num_codes, config.units_per_cell
    self.channels, self.patch, self.rate = config.channels, config.patch, config.rate

  @functools.cached_property
  def fingerprint(self) -> str:
    return hashlib.sha256(b"".join(self.files[name] for name in sorted(self.files))).hexdigest()[:16]

  def of(self, medium: str) -> "LearnedCodec":
    """The same codec for images or for videos."""
    if medium != self.config.medium and {medium, self.config.medium} != {"image", "video"}:
      raise UserError(f"a codec of {self.config.medium} is none of {medium}: name another")
    other = copy.copy(self)
    other.medium = medium
    return other

  def encode(self, medium: Medium) -> np.ndarray:
    return self.encode_all([medium])[0]

  def encode_all(self, media: Sequence[Medium]) -> list[np.ndarray]:
    c = self.config
    if (self.medium, c.medium) == ("video", "image"):
      videos = [conform.of_kind(video, Video) for video in media]
      codes = self.of("image").encode_all([Image(frame) for video in videos for frame in video.frames])
      ends = np.cumsum([len(video.frames) for video in videos])
      return [np.stack(codes[end - len(video.frames):end]) for video, end in zip(videos, ends)]
    arrays = [self._array(medium) for medium in media]
    counts = [(self._time_cells(len(array)),) if c.medium != "image" else () for array in arrays]
    found = self._run(_programs(c)[0], arrays, self._filled_up)
    codes = [one[tuple(map(slice, count))] for one, count in zip(found, counts)]
    return [one[0] for one in codes] if (self.medium, c.medium) == ("image", "video") else codes

  def decode(self, codes: np.ndarray) -> Medium:
    return self.decode_all([codes])[0]

  def decode_all(self, codes: Sequence[np.ndarray]) -> list[Any]:
    """The medium of each."""
    c, axes = self.config, {"image": 2, "audio": 1, "video": 3}[self.medium]
    arrays = [conform.check_codes(one, c.num_codes, axes) for one in codes]
    if (self.medium, c.medium) == ("video", "image"):
      frames = [self.of("image").decode_all(list(one)) for one in arrays]
      return [Video(np.stack([image.pixels for image in some]) if some else self._nothing(one), c.fps)
              for some, one in zip(frames, arrays)]
    if (self.medium, c.medium) == ("image", "video"):
      arrays = [one[None] for one in arrays]

    def fill_up(array: np.ndarray) -> np.ndarray:
      count = _time_steps(len(array)) if c.medium != "image" else len(array)
      return np.pad(array, [(0, count - len(array))] + [(0, 0)] * (array.ndim - 1))

    found = iter(self._run(_programs(c)[1], [one for one in arrays if one.size], fill_up))
    return [self._medium(next(found) if one.size else self._nothing(one), len(one)) for one in arrays]

  def _run(self, program: Callable[..., jax.Array], arrays: Sequence[np.ndarray],
           fill_up: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """What a program makes of each array, those of one shape together."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    filled = [fill_up(array) for array in arrays]
    for i, array in enumerate(filled):
      groups[array.shape].append(i)
    found: list[Any] = [None] * len(arrays)
    for shape, members in groups.items():
      rows = max(1, min(_ROWS, _MOST_UNITS // max(math.prod(shape), 1)))
      for start in range(0, len(members), rows):
        some = members[start:start + rows]
        batch = np.stack([filled[i] for i in some] + [np.zeros_like(filled[some[0]])] * (rows - len(some)))
        for i, one in zip(some, np.asarray(program(self.params, batch))):
          found[i] = one
    return found

  def _array(self, given: Medium) -> np.ndarray:
    """The medium as the network takes it."""
    c = self.config
    if self.medium == "audio":
      return conform.check_rate(conform.of_kind(given, Audio), c.rate).samples.astype(np.int16)
    is_image = self.medium == "image"
    pixels = conform.of_kind(given, Image).pixels if is_image else conform.of_kind(given, Video).frames
    if not is_image and not len(pixels):
      raise UserError("a video has no frames: leave it out")
    pixels = conform.check_multiple(conform.to_channels(pixels, c.channels), c.patch)
    return pixels[None] if (self.medium, c.medium) == ("image", "video") else pixels

  def _time_cells(self, length: int) -> int:
    c = self.config
    return -(-length // c.hop) + 1 if c.medium == "audio" else 1 - (1 - length) // c.time_patch

  def _filled_up(self, array: np.ndarray) -> np.ndarray:
    """A sound with silence, or a video with its last frame, for so many cells of time as programs are made for."""
    c = self.config
    if c.medium == "image":
      return array
    cells = _time_steps(self._time_cells(len(array)))
    length = (cells - 1) * c.hop if c.medium == "audio" else 1 + (cells - 1) * c.time_patch
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1),
                  mode="constant" if c.medium == "audio" else "edge")

  def _medium(self, array: np.ndarray, cells: int) -> Medium:
    c = self.config
    if self.medium == "audio":
      return Audio(array[:max(cells - 1, 0) * c.hop], c.rate)
    if self.medium == "video":
      return Video(array[:1 + (cells - 1) * c.time_patch], c.fps) if cells else Video(array, c.fps)
    return Image(array[0] if c.medium == "video" else array)

  def _nothing(self, codes: np.ndarray) -> np.ndarray:
    """Of codes without a cell."""
    c = self.config
    if c.medium == "audio":
      return np.zeros(0, np.int16)
    *time, height, width, _ = codes.shape
    return np.zeros((*time, height * c.patch, width * c.patch, c.channels), np.uint8)


def _time_steps(cells: int) -> int:
  """The cells of time of the program for so many; a single one, as images have, has its own."""
  return cells if cells <= 1 else -(-cells // _TIME_STEP) * _TIME_STEP


@functools.cache
def _programs(config: CodecConfig) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """Encoding and decoding, compiled for each shape, as functions of the parameters and a batch."""
  module = CodecModule(config)

  def encode(params, media):
    return module.apply({"params": params}, to_cells(config, scaled(media)), method="encode")

  def decode(params, codes):
    cells: Any = module.apply({"params": params}, codes, method="decode")
    return unscaled(config, from_cells(config, cells))

  return jax.jit(encode), jax.jit(decode)
