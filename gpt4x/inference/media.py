"""Media in prompts, and media as what a continuation is to be: between arrays and the ids of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import re
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x.errors import UserError
from gpt4x.media.medium import Audio, Codec, MEDIA, Medium, Video

if TYPE_CHECKING:
  from gpt4x.media.grammar import Grammar

LONGEST = 30.0  # Seconds of audio or video, where nobody has said how many.
MIXED_TOKENS = 4096  # Of text with media in it, likewise.
_MARK = re.compile(f"<({'|'.join(MEDIA)})>")


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A prompt with media in it, or with documents ahead of it."""

  text: str  # As it was written, with its marks and without the documents.
  ids: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Output:
  """What a continuation is to be.

  Attributes:
    medium: the medium that it is, and nothing else; None: text with any media in it.
    size: height and width of an image or a video in pixels; None: the model decides.
    seconds: of audio or video, exactly; None: the model decides, up to LONGEST.
  """

  medium: str | None = None
  size: tuple[int, int] | None = None
  seconds: float | None = None

  def __post_init__(self):
    what = self.medium or "text with any media"
    if self.size and self.medium not in ("image", "video"):
      raise UserError(f"the size {_by(self.size)} is for an image or a video, and the output is {what}: leave it out,"
                      " or choose another output")
    if self.seconds and self.medium not in ("audio", "video"):
      raise UserError(f"a length of {self.seconds:g} seconds is for audio or video, and the output is {what}: leave it"
                      " out, or choose another output")


def known(vocabulary: Any) -> tuple[str, ...]:
  """The media of a vocabulary; none of one that has text alone."""
  codecs = getattr(vocabulary, "codecs", None) or {}
  return tuple(medium for medium in MEDIA if codecs.get(medium) is not None)


def codec_of(vocabulary: Any, medium: str) -> Codec:
  """The codec of a medium; a UserError if the vocabulary has none."""
  media = known(vocabulary)
  if medium not in media:
    raise UserError(f"the model knows no {medium}, only {', '.join(('text', *media))}: leave the {medium} out, or"
                    f" choose a model that was trained with MediaTokens.{medium}")
  return vocabulary.codecs[medium]


def encode(vocabulary: Any, text: str, media: Sequence[Medium] = ()) -> str | Prompt:
  """A prompt whose media stand at the marks in its text, or before the text if it has no marks."""
  for one in media:
    codec_of(vocabulary, one.medium)
  if not known(vocabulary):  # To which a mark is text as any other.
    return text
  parts = place(text, media)
  return Prompt(text, [int(token) for token in vocabulary.encode_parts(parts)]) if media else text


def place(text: str, media: Sequence[Medium]) -> list[str | Medium]:
  """The parts of a prompt. The first mark of a kind is that of the first medium of this kind."""
  pieces = _MARK.split(text)  # Text, the name in a mark, text and so on.
  if len(pieces) == 1:
    return [*media, *([text] if text else [])]
  waiting = {medium: [one for one in media if one.medium == medium] for medium in MEDIA}
  for medium in MEDIA:
    marks, given = pieces[1::2].count(medium), len(waiting[medium])
    if marks != given:
      raise UserError(f"the prompt has the mark <{medium}> {marks} times, and {given} {medium} files are given: give as"
                      " many as there are marks, or write no marks, so that all media come before the text")
  parts = [waiting[piece].pop(0) if number % 2 else piece for number, piece in enumerate(pieces)]
  return [part for part in parts if not isinstance(part, str) or part]


def decode(vocabulary: Any, tokens: Sequence[int], output: Output | None = None) -> list[str | Medium]:
  """The text and the media of a continuation, one after the other."""
  ids = [token for token in tokens if token != vocabulary.eos_id]
  if not known(vocabulary):
    return [vocabulary.decode(ids)]
  return [part if isinstance(part, str) else finish(part, output or Output()) for part in vocabulary.decode_parts(ids)]


def finish(medium: Medium, output: Output) -> Medium:
  """A medium as it was asked for: what its last cell has beyond the seconds is cut off."""
  if output.seconds is None:
    return medium
  if isinstance(medium, Audio):
    return _beginning(medium, output.seconds)
  if isinstance(medium, Video):
    return dataclasses.replace(medium, frames=medium.frames[:_count(output.seconds, medium.fps)],
                               sound=medium.sound and _beginning(medium.sound, output.seconds))
  return medium


def _beginning(sound: Audio, seconds: float) -> Audio:
  return dataclasses.replace(sound, samples=sound.samples[:_count(seconds, sound.rate)])


def grammar(vocabulary: Any, output: Output | None) -> Grammar | None:
  """What may be drawn for an output, or for text alone; None if the vocabulary has text alone: then anything may."""
  media = known(vocabulary)
  if output is None and not media:
    return None
  from gpt4x.media.grammar import Grammar
  if output is None:
    return Grammar(vocabulary.layout, frozenset())
  if output.medium is None:
    if not media:
      raise UserError("the model knows text alone: leave the output out, or choose a model that was trained with media")
    return Grammar(vocabulary.layout, frozenset(media))
  codec = codec_of(vocabulary, output.medium)
  return Grammar(
      vocabulary.layout, frozenset([output.medium]), only=output.medium,
      size=_cells_of_size(codec, output.size, vocabulary.layout.num_sizes) if output.size else None,
      cells=_cells_of_seconds(codec, output.seconds) if output.seconds else None)


def max_tokens(vocabulary: Any, output: Output) -> int:
  """As many tokens as an output may take."""
  if output.medium is None:
    return MIXED_TOKENS
  codec, most = codec_of(vocabulary, output.medium), vocabulary.layout.num_sizes
  codes, seconds = len(codec.num_codes), output.seconds or LONGEST
  if output.medium == "audio":
    return codes * _cells_of_seconds(codec, seconds) + 3  # Its begin and end, and the end of the document.
  ends = 5  # And two sizes.
  height, width = _cells_of_size(codec, output.size, most) if output.size else (most, most)
  picture = height * (width * codes + 1)
  if output.medium == "image":
    return picture + ends
  frames, sound = _cells_of_seconds(codec, seconds), 0
  if "audio" in known(vocabulary):  # The model decides how long a frame's is: leaves room for twice its time.
    audio = vocabulary.codecs["audio"]
    sound = 1 + len(audio.num_codes) * _cells_of_seconds(audio, 2 * seconds / frames)
  return frames * (picture + sound + 1) + ends


def _cells_of_size(codec: Codec, size: tuple[int, int], most: int) -> tuple[int, int]:
  """The height and width of an image or a video in cells."""
  patch = getattr(codec, "patch", 1)
  if any(side % patch for side in size):
    raise UserError(f"the size {_by(size)} does not divide into the patches of the {codec.medium} codec: choose"
                    f" multiples of {patch}")
  height, width = (side // patch for side in size)
  if max(height, width) > most:
    raise UserError(f"the size {_by(size)} is {_by((height, width))} patches, and the model's vocabulary has sizes up"
                    f" to {most} (MediaTokens.sizes): choose at most {_by((patch * most, patch * most))}")
  return height, width


def _cells_of_seconds(codec: Codec, seconds: float) -> int:
  """How many cells of audio, or latent frames of video, last at least so long."""
  ((first, *_), rate), ((second, *_), _) = _decoded(codec, 1), _decoded(codec, 2)
  return 1 + max(0, math.ceil((_count(seconds, rate) - first) / (second - first)))


def _count(seconds: float, rate: float) -> int:
  return max(1, round(seconds * rate))


def _decoded(codec: Codec, cells: int) -> tuple[tuple[int, ...], float]:
  """The samples, or frames, height and width, that so many cells make, and how many of the former are a second.

  No codec has to say so otherwise.
  """
  shape = {"image": (1, 1), "audio": (cells,), "video": (cells, 1, 1)}[codec.medium]
  made: Any = codec.decode(np.zeros((*shape, len(codec.num_codes)), np.int32))
  if codec.medium == "audio":
    return made.samples.shape, made.rate
  return (made.pixels.shape[:2], 1.0) if codec.medium == "image" else (made.frames.shape[:3], made.fps)


def _by(size: Sequence[int]) -> str:
  return "x".join(map(str, size))
