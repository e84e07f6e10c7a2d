"""Streams of the one vocabulary by another hand: layouts, random documents, and a parser written from the grammar.

The parser reads an id at a time and knows nothing of `Layout` but its arguments.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt4x.media.layout import Layout, Span, Tokens

TEXT, EOS = 20, 1
SPECIALS = ("IMAGE", "IMAGE_END", "AUDIO", "AUDIO_END", "VIDEO", "VIDEO_END", "ROW_END", "FRAME_END", "SOUND")
LAYOUTS = {
    "all": Layout(TEXT, EOS, Tokens((5,)), Tokens((4, 3)), Tokens((6, 2)), num_sizes=4),
    "pixels": Layout(TEXT, EOS, Tokens((7, 7, 7), shared_range=True), Tokens((3, 2, 4)), num_sizes=3),
    "shared": Layout(TEXT, EOS, Tokens((5,)), None, Tokens((5,)), num_sizes=3, video_is_image=True),
    "sounds": Layout(TEXT, None, None, Tokens((4,)), Tokens((2,)), num_sizes=2),
    "text": Layout(TEXT, EOS),
}


class Illegal(Exception):
  """An id that cannot come; its argument is its place."""


class Ended(Exception):
  """The ids are over; its argument is the set of those that might come."""


@dataclasses.dataclass
class Open:
  """A span as far as it has come."""

  medium: str
  codes: Any
  sound: list[Any] = dataclasses.field(default_factory=list)


class Parser:
  """Reads ids by recursive descent; `parts` are lists of text ids and Spans, `open` is what is not over."""

  def __init__(self, layout: Layout, ids):
    self.layout, self.ids, self.at = layout, [int(i) for i in ids], 0
    self.parts: list[Any] = []
    self.open: Open | None = None
    self.special = {name: layout.text_size + i for i, name in enumerate(SPECIALS)}
    start = layout.text_size + 16
    self.sizes = range(start, start + layout.num_sizes)
    start, self.codes = self.sizes.stop, {}
    for medium in ("image", "audio", "video"):
      tokens = getattr(layout, medium)
      if medium == "video" and layout.video_is_image:
        self.codes[medium] = self.codes["image"]
      elif tokens:
        self.codes[medium] = []
        for k, count in enumerate(tokens.num_codes):
          if k and tokens.shared_range:
            self.codes[medium].append(self.codes[medium][0])
          else:
            self.codes[medium].append(range(start, start + count))
            start += count
    self.size = start

  def run(self) -> set[int]:
    """What may come next."""
    try:
      while True:
        self.document()
    except Ended as ended:
      return ended.args[0]

  def take(self, *choices) -> int:
    allowed = {i for one in choices for i in (one if isinstance(one, range) else [one])}
    if self.at == len(self.ids):
      raise Ended(allowed)
    token = self.ids[self.at]
    if token not in allowed:
      raise Illegal(self.at)
    self.at += 1
    return token

  def document(self):
    s = self.special
    begins = {s[medium.upper()]: medium for medium in self.codes}
    token = self.take(range(self.layout.text_size), *begins)
    if token in begins:
      getattr(self, begins[token])()
      made, self.open = self.open, None
      self.parts.append(made)
    elif self.parts and isinstance(self.parts[-1], list):
      self.parts[-1].append(token)
    else:
      self.parts.append([token])

  def cell(self, medium, first=None):
    ranges = self.codes[medium]
    codes = [] if first is None else [first - ranges[0].start]
    for ids in ranges[len(codes):]:
      codes.append(self.take(ids) - ids.start)
    return codes

  def rows(self, medium, h, w, into, first=None):
    for _ in range(h):
      row = []
      for _ in range(w):
        row.append(self.cell(medium, first))
        first = None
      self.take(self.special["ROW_END"])
      into.append(row)

  def image(self):
    self.open = Open("image", [])
    h, w = (self.take(self.sizes) - self.sizes.start + 1 for _ in range(2))
    self.rows("image", h, w, self.open.codes)
    self.take(self.special["IMAGE_END"])

  def audio(self):
    self.open = Open("audio", [])
    self.cells_until(self.special["AUDIO_END"], self.open.codes)

  def cells_until(self, end, into):
    while (token := self.take(self.codes["audio"][0], end)) != end:
      into.append(self.cell("audio", token))

  def video(self):
    s = self.special
    self.open, has_sound = Open("video", []), None
    h, w = (self.take(self.sizes) - self.sizes.start + 1 for _ in range(2))
    first = self.take(self.codes["video"][0])
    while first != s["VIDEO_END"]:
      frame, sound = [], []
      self.rows("video", h, w, frame, first)
      choices = [s["SOUND"]] if has_sound or has_sound is None and self.layout.audio else []
      choices += [s["FRAME_END"]] if not has_sound else []
      has_sound = self.take(*choices) == s["SOUND"]
      if has_sound:
        self.cells_until(s["FRAME_END"], sound)
        self.open.sound.append(sound)
      self.open.codes.append(frame)
      first = self.take(self.codes["video"][0], s["VIDEO_END"])


def random_span(layout: Layout, medium: str, rng) -> Span:
  draw = lambda which, *shape: np.stack([rng.integers(0, count, shape) for count in getattr(
      layout, which).num_codes], -1).astype(np.int32)
  h, w = rng.integers(1, layout.num_sizes + 1, 2)
  if medium == "image":
    return Span("image", draw("image", h, w))
  if medium == "audio":
    return Span("audio", draw("audio", rng.integers(0, 5)))
  count = rng.integers(1, 4)
  has_sound = layout.audio and rng.random() < 0.7
  sound = tuple(draw("audio", rng.integers(0, 3)) for _ in range(count)) if has_sound else None
  return Span("video", draw("video", count, h, w), sound)


def random_parts(layout: Layout, rng, count: int = 6) -> list[Any]:
  """Text ids, all of them and the end of a document among them, and spans; never two texts in a row."""
  parts: list[Any] = []
  media = [medium for medium in ("image", "audio", "video") if getattr(layout, medium)]
  for _ in range(count):
    if not media or (rng.random() < 0.4 and not (parts and isinstance(parts[-1], np.ndarray))):
      parts.append(rng.integers(0, layout.text_size, rng.integers(1, 5)).astype(np.int32))
    else:
      parts.append(random_span(layout, rng.choice(media), rng))
    if not media:
      break
  return parts


def ids_of(layout: Layout, parts) -> np.ndarray:
  return np.concatenate([part if isinstance(part, np.ndarray) else layout.flatten(part) for part in parts])


def assert_same(found, expected):
  """Parts of `Layout.parse` and those of the parser, or of a test."""
  assert len(found) == len(expected)
  for one, other in zip(found, expected):
    if isinstance(other, (list, np.ndarray)):
      np.testing.assert_array_equal(one, other)
      continue
    assert isinstance(one, Span) and one.medium == other.medium and one.codes.dtype == np.int32
    # Of no cells there may be no shape.
    assert one.codes.size == np.size(other.codes) and (not one.codes.size or one.codes.tolist() == as_list(other.codes))
    assert [cells.tolist() for cells in one.sound or ()] == [as_list(cells) for cells in other.sound or ()]
    assert all(cells.shape[1:] == one.sound[0].shape[1:] for cells in one.sound or ())


def as_list(codes):
  return codes.tolist() if isinstance(codes, np.ndarray) else codes
