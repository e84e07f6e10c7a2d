"""The ids of the one vocabulary, and media as streams of them.

Ids in order: text, unchanged; SPECIALS; sizes 1 to `num_sizes`; the codes of images, of sounds, of videos. A cell's K
codes follow one another.

    image   IMAGE size(h) size(w) (w * K codes, ROW_END){h} IMAGE_END
    audio   AUDIO (K codes)* AUDIO_END
    video   VIDEO size(h) size(w) ((w * K codes, ROW_END){h} [SOUND (K codes)*] FRAME_END)+ VIDEO_END

All frames of a video have a SOUND, or none. Padding, the end of a document and text are never inside a span.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools

import numpy as np

from gpt4x.errors import UserError
from gpt4x.media.medium import MEDIA

MODALITIES = ("text", *MEDIA, "structure")  # Structure is SPECIALS and sizes; the end of a document is text.
SPECIALS = ("IMAGE", "IMAGE_END", "AUDIO", "AUDIO_END", "VIDEO", "VIDEO_END", "ROW_END", "FRAME_END", "SOUND",
            *(f"SPARE_{i}" for i in range(7)))


@dataclasses.dataclass(frozen=True)
class Tokens:
  """The K codes of a cell."""

  num_codes: tuple[int, ...]  # How many values each has.
  shared_range: bool = False  # Whether all have one range of ids, as the channels of a pixel.

  def __post_init__(self):
    object.__setattr__(self, "num_codes", tuple(map(int, self.num_codes)))
    if not self.num_codes or min(self.num_codes) < 1 or self.shared_range and len(set(self.num_codes)) > 1:
      raise ValueError(f"a cell cannot have {self.num_codes} codes, shared_range = {self.shared_range}")


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
  """A medium in a stream."""

  medium: str  # One of MEDIA.
  codes: np.ndarray  # int32; image [h, w, K], audio [t, K], video [t, h, w, K].
  sound: tuple[np.ndarray, ...] | None = None  # Of a video with sound: the audio codes [n, K] of each of its t frames.
  complete: bool = True  # False: it was cut, and `codes` are the rows, cells or frames that had come to their end.


@dataclasses.dataclass(frozen=True)
class Layout:
  """The ranges of ids, and streams of them from spans and back."""

  text_size: int
  eos_id: int | None
  image: Tokens | None = None
  audio: Tokens | None = None
  video: Tokens | None = None
  num_sizes: int = 64  # An image has at most so many rows, and so many cells in a row.
  video_is_image: bool = False  # A video's codes are those of images, so they have the same ids.

  def __post_init__(self):
    if self.num_sizes < 1:
      raise UserError(f"MediaTokens.sizes = {self.num_sizes} must be at least 1")
    if self.video_is_image and self.video != self.image:
      raise ValueError(f"videos of {self.video} cannot have the ids of images, {self.image}")

  @functools.cached_property
  def ranges(self) -> dict[str, range]:
    """The ids of "text", "special", "size", and of codes: "image.0", or one for each of K, "audio.0", "audio.1"."""
    sizes = {"text": self.text_size, "special": len(SPECIALS), "size": self.num_sizes}
    for medium in MEDIA:
      tokens = self.tokens(medium)
      if tokens and not (medium == "video" and self.video_is_image):
        counts = tokens.num_codes[:1] if tokens.shared_range else tokens.num_codes
        sizes |= {f"{medium}.{k}": count for k, count in enumerate(counts)}
    ends = itertools.accumulate(sizes.values())
    return {name: range(end - size, end) for (name, size), end in zip(sizes.items(), ends)}

  @functools.cached_property
  def size(self) -> int:
    """How many ids there are, V."""
    return max(ids.stop for ids in self.ranges.values())

  @functools.cached_property
  def modality(self) -> np.ndarray:
    """The index into MODALITIES of each id, [V] int32; codes that videos share with images are those of images."""
    found = np.zeros(self.size, np.int32)
    for name, ids in self.ranges.items():
      medium = name.partition(".")[0]
      found[ids.start:ids.stop] = MODALITIES.index(medium if medium in MODALITIES else "structure")
    return found

  @property
  def media(self) -> tuple[str, ...]:
    """Those that have ids."""
    return tuple(medium for medium in MEDIA if self.tokens(medium))

  def tokens(self, medium: str) -> Tokens | None:
    return {"image": self.image, "audio": self.audio, "video": self.video}[medium]

  def special(self, name: str) -> int:
    """The id of one of SPECIALS."""
    return self.ranges["special"].start + SPECIALS.index(name)

  def code_ranges(self, medium: str) -> list[range]:
    """The ids of each of a cell's K codes."""
    tokens = self.tokens(medium)
    if tokens is None:
      raise UserError(f"the vocabulary has no {medium} tokens: set MediaTokens.{medium}, or leave the {medium} out")
    name = "image" if medium == "video" and self.video_is_image else medium
    return [self.ranges[f"{name}.{0 if tokens.shared_range else k}"] for k in range(len(tokens.num_codes))]

  # Spans to ids.

  def flatten(self, span: Span) -> np.ndarray:
    """The stream of a span, int32. An incomplete one is as long as what there is of it."""
    begin, end = (np.array([self.special(span.medium.upper() + name)]) for name in ("", "_END"))
    if span.medium == "audio":
      return np.concatenate([begin, self._ids("audio", span.codes, 2).reshape(-1), end]).astype(np.int32)
    frames = self._ids(span.medium, span.codes, 3 if span.medium == "image" else 4)
    frames = frames[None] if span.medium == "image" else frames
    count, h, w, k = frames.shape
    self.check_size(h, w, span.medium)
    rows = np.pad(frames.reshape(count, h, w * k), ((0, 0), (0, 0), (0, 1)), constant_values=self.special("ROW_END"))
    pieces = [begin, self.ranges["size"].start - 1 + np.array([h, w])]
    if span.medium == "image":
      return np.concatenate([*pieces, rows.reshape(-1), end]).astype(np.int32)
    if not count or span.sound is not None and len(span.sound) != count:
      raise ValueError(f"a video of {count} frames, and sound of {'none' if span.sound is None else len(span.sound)}")
    for i, frame in enumerate(rows):
      pieces.append(frame.reshape(-1))
      if span.sound is not None:
        pieces += [np.array([self.special("SOUND")]), self._ids("audio", span.sound[i], 2).reshape(-1)]
      pieces.append(np.array([self.special("FRAME_END")]))
    return np.concatenate([*pieces, end]).astype(np.int32)

  def _ids(self, medium: str, codes: np.ndarray, axes: int) -> np.ndarray:
    """The ids of codes [..., K]."""
    ranges, codes = self.code_ranges(medium), np.asarray(codes, np.int64)
    if codes.ndim != axes or codes.shape[-1] != len(ranges):
      raise ValueError(f"codes of {medium} are {list(codes.shape)}, and {axes} axes with {len(ranges)} last are wanted")
    if ((codes < 0) | (codes >= [len(ids) for ids in ranges])).any():
      raise ValueError(f"a code of {medium} is outside its {[len(ids) for ids in ranges]} values")
    return codes + [ids.start for ids in ranges]

  def check_size(self, h: int, w: int, medium: str) -> None:
    """A UserError if the vocabulary has no ids for so many rows of cells, or cells of a row."""
    if not 1 <= min(h, w) or max(h, w) > self.num_sizes:
      raise UserError(f"the {medium} has {h} x {w} cells, and MediaTokens.sizes = {self.num_sizes} allows 1 to"
                      f" {self.num_sizes}: set MediaTokens.image_size, or max_side, to a smaller image, or raise"
                      " MediaTokens.sizes")

  # Ids to spans.

  def parse(self, ids: Sequence[int] | np.ndarray) -> list[np.ndarray | Span]:
    """Text ids and spans in their order.

    Any ids may be given. A span ends before the first id that cannot be in it, and is then incomplete, as at the end of
    the stream; ids that are neither text nor in a span are left out.
    """
    stream = _Stream(self, np.asarray(ids, np.int64).reshape(-1))
    parts = list[np.ndarray | Span]()
    while not stream.ended:
      text = stream.text()
      if text.size:
        parts.append(text)
      if not stream.ended:
        parts.append(stream.span())
    return parts

  @functools.cached_property
  def begins(self) -> Mapping[int, str]:
    """The media that have ids, by the id that begins a span."""
    return {self.special(medium.upper()): medium for medium in self.media}


class _Stream:
  """Ids that are read from start to end."""

  def __init__(self, layout: Layout, ids: np.ndarray):
    self._layout, self._ids, self._at = layout, ids, 0
    special = layout.ranges["special"]
    # Where a run of codes, or of text, ends at the latest.
    self._begins = np.append(np.flatnonzero(np.isin(ids, list(layout.begins))), len(ids))
    self._specials = np.append(np.flatnonzero((ids >= special.start) & (ids < special.stop)), len(ids))

  @property
  def ended(self) -> bool:
    return self._at >= len(self._ids)

  def text(self) -> np.ndarray:
    """The text ids before the next span."""
    piece = self._take(self._begins[np.searchsorted(self._begins, self._at)] - self._at)
    return piece[(piece >= 0) & (piece < self._layout.text_size)].astype(np.int32)

  def span(self) -> Span:
    medium = self._layout.begins[int(self._take(1)[0])]
    if medium == "audio":
      codes, whole = self._cells()
      return Span(medium, codes, complete=whole and self._follows("AUDIO_END"))
    h, w = self._size(), self._size()
    if not w:
      h = 0
    if medium == "image":
      codes = self._rows(medium, h, w)
      return Span(medium, codes, complete=0 < h == len(codes) and self._follows("IMAGE_END"))
    return self._video(h, w)

  def _video(self, h: int, w: int) -> Span:
    frames, sounds, has_sound, complete = list[np.ndarray](), list[np.ndarray](), False, False
    while not complete:
      frame, sound = self._rows("video", h, w), None
      if not 0 < h == len(frame):
        break
      if self._layout.audio and (has_sound or not frames) and self._follows("SOUND"):
        sound, whole = self._cells()
        if not whole:
          break
      if has_sound and sound is None or not self._follows("FRAME_END"):
        break
      has_sound = sound is not None
      frames.append(frame)
      sounds += [sound] if sound is not None else []
      complete = self._follows("VIDEO_END")
    k = len(self._layout.code_ranges("video"))
    codes = np.stack(frames) if frames else np.zeros((0, h, w, k), np.int32)
    return Span("video", codes, tuple(sounds) if has_sound else None, complete)

  def _size(self) -> int:
    """A size that comes next; 0 if none does."""
    sizes = self._layout.ranges["size"]
    piece = self._ids[self._at:self._at + 1]
    if not piece.size or int(piece[0]) not in sizes:
      return 0
    return int(self._take(1)[0]) - sizes.start + 1

  def _follows(self, special: str) -> bool:
    """Whether a special comes next, which is then taken."""
    if self.ended or self._ids[self._at] != self._layout.special(special):
      return False
    self._at += 1
    return True

  def _rows(self, medium: str, h: int, w: int) -> np.ndarray:
    """The whole rows that come next, at most h: codes [rows, w, K]."""
    ranges, end = self._layout.code_ranges(medium), self._layout.special("ROW_END")
    length = w * len(ranges) + 1
    taken = self._matching([*ranges * w, range(end, end + 1)], h * length)
    rows = taken[:len(taken) // length * length].reshape(-1, length)
    codes = rows[:, :-1].reshape(len(rows), w, len(ranges))
    return (codes - [ids.start for ids in ranges]).astype(np.int32)

  def _cells(self) -> tuple[np.ndarray, bool]:
    """The whole cells of sound that come next, [n, K], and whether no piece of a cell is behind them."""
    ranges = self._layout.code_ranges("audio")
    taken = self._matching(ranges, self._specials[np.searchsorted(self._specials, self._at)] - self._at)
    cells = taken[:len(taken) // len(ranges) * len(ranges)].reshape(-1, len(ranges))
    return (cells - [ids.start for ids in ranges]).astype(np.int32), cells.size == taken.size

  def _matching(self, pattern: Sequence[range], most: int) -> np.ndarray:
    """Takes ids as long as they lie in the ranges of a pattern that repeats, at most so many."""
    piece = self._ids[self._at:self._at + most]
    place = np.arange(len(piece)) % len(pattern)
    low, high = (np.array([getattr(ids, name) for ids in pattern])[place] for name in ("start", "stop"))
    fits = (low <= piece) & (piece < high)
    return self._take(len(piece) if fits.all() else int(np.argmin(fits)))

  def _take(self, count: int) -> np.ndarray:
    self._at += count
    return self._ids[self._at - count:self._at]
