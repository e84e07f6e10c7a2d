"""Which ids may come next in a stream of the one vocabulary, as arrays inside `jax.jit`.

What may come depends on a few integers, the state of a row. There are some twenty kinds of places in a stream, and
a mask of ids for each, made once.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.media.layout import Layout, Span
from gpt4x.media.medium import MEDIA


class Phase:
  """Where a row is."""

  TEXT, BEGIN, DONE = range(3)  # Text; before the only span; behind it.
  # What comes next inside a span: a size, a code of a row, its end, the end of an image; SOUND or FRAME_END; a code of
  # sound or FRAME_END; a frame or VIDEO_END; a code or AUDIO_END.
  HEIGHT, WIDTH, ROW, ROW_END, IMAGE_END, FRAME_OVER, SOUND, NEXT_FRAME, AUDIO = range(3, 12)


@flax.struct.dataclass
class GrammarState:
  """Where a row is in its stream; the leaves are int32 [], and [B] for rows."""

  phase: Any  # A Phase.
  is_video: Any  # Of the span that is open: 1 for a video, 0 for an image or a sound.
  height: Any
  width: Any
  row: Any  # How many rows of the frame have come.
  place: Any  # How many codes of the row, or of the cell of sound.
  count: Any  # How many frames of the video, or cells of the audio.
  has_sound: Any  # Whether the video's first frame had sound: all are like it.


@dataclasses.dataclass(frozen=True)
class Grammar:
  """The streams that `Layout` parses, or some of them."""

  layout: Layout
  begins: frozenset[str] = frozenset()  # The media that may begin in text.
  only: str | None = None  # One medium is made, alone, and then the document ends.
  size: tuple[int, int] | None = None  # Rows, and cells in a row, of every image or video that is begun.
  cells: int | None = None  # Cells of every audio, frames of every video.

  def __post_init__(self):
    object.__setattr__(self, "begins", frozenset(self.begins))
    for medium in sorted(self.begins | ({self.only} if self.only else set())):
      if medium not in MEDIA or medium not in self.layout.media:
        known = ", ".join(self.layout.media) or "none"
        raise UserError(f"the model cannot make {medium}: its vocabulary has the media {known}")
    if self.size is not None:
      object.__setattr__(self, "size", tuple(map(int, self.size)))
      if not (len(self.size) == 2 and 1 <= min(self.size) and max(self.size) <= self.layout.num_sizes):
        raise UserError(f"{' x '.join(map(str, self.size))} cells are wanted, and the vocabulary has sizes 1 to"
                        f" {self.layout.num_sizes}: choose another size")
    if self.cells is not None and self.cells < 1:
      raise UserError(f"{self.cells} cells of sound, or frames, are wanted: ask for at least 1")

  def start(self) -> GrammarState:
    """The state before the first id."""
    zero = np.zeros((), np.int32)
    phase = np.int32(Phase.BEGIN if self.only else Phase.TEXT)
    return GrammarState(np.asarray(phase), *[zero] * (len(dataclasses.fields(GrammarState)) - 1))

  def after(self, state: GrammarState, token: Any) -> GrammarState:
    """The state behind one more id, which must be an allowed one."""
    return self._after(jnp, state, token)

  def allowed(self, state: GrammarState) -> jax.Array:
    """Which ids may come next, bool [V]."""
    return jnp.asarray(self._masks)[self._kind(jnp, state)]

  def of_prompt(self, ids: Sequence[int]) -> GrammarState:
    """The state behind a prompt, in which any medium of the vocabulary may come; UserError if it is no such stream.

    A span that the prompt leaves open goes on, with its own size.
    """
    any_media = _of_any_media(self.layout)
    state, medium = any_media.start(), None
    for place in range(self._closed(ids), len(ids)):
      token, kind = int(ids[place]), any_media._kind(np, state)
      if not (0 <= token < self.layout.size and any_media._masks[kind, token]):
        raise UserError(f"token {place} of the prompt is {token}, where the stream goes on with"
                        f" {any_media._kinds[int(kind)]}: correct the prompt")
      medium = self.layout.begins.get(token, medium)
      state = any_media._after(np, state, token)
    if state.phase == Phase.TEXT:
      return self.start()
    if self.only and medium != self.only:
      raise UserError(f"the prompt ends inside of {medium}, and {self.only} is to be made: end it first")
    return state

  def _closed(self, ids: Sequence[int]) -> int:
    """How many ids of a prompt need no walk, since they are text and whole spans; 0 if it is no stream."""
    parts = self.layout.parse(ids)
    if parts and isinstance(parts[-1], Span) and not parts[-1].complete:
      parts.pop()
    if not all(isinstance(part, np.ndarray) or part.complete for part in parts):
      return 0
    found = [part if isinstance(part, np.ndarray) else self.layout.flatten(part) for part in parts]
    closed = np.concatenate([np.zeros(0, np.int32), *found])
    return len(closed) if np.array_equal(np.asarray(ids, np.int64)[:len(closed)], closed) else 0

  # The rules. What is written once for both numpy and jax.numpy, `xp`, has no branch that depends on a row.

  def _after(self, xp: Any, s: GrammarState, token: Any) -> GrammarState:
    where, special, over = xp.where, self.layout.special, Phase.DONE if self.only else Phase.TEXT
    token = xp.asarray(token, np.int32)
    begins = functools.reduce(lambda one, other: one | other, [token == i for i in self.layout.begins], token < 0)
    begins &= (s.phase == Phase.TEXT) | (s.phase == Phase.BEGIN)
    # A frame's first code is one of a row: the sizes are as before, and `row` and `place` are 0.
    phase = where((s.phase == Phase.NEXT_FRAME) & (token != special("VIDEO_END")), Phase.ROW, s.phase)
    size = token - self.layout.ranges["size"].start + 1
    row_is_over = s.place + 1 == s.width * where(s.is_video, self._codes("video"), self._codes("image"))
    frame_is_over = s.row + 1 == s.height
    is_code = (token != special("AUDIO_END")) & (token != special("FRAME_END"))
    cell_place = where(is_code, (s.place + 1) % max(self._codes("audio"), 1), 0)
    has_sound = token == special("SOUND")

    def changed(leaf: Any, changes: dict[int, Any], begun: Any = 0) -> Any:
      """The leaf as a phase changes it; otherwise it stays, but for the begin of a span."""
      for one, value in changes.items():
        leaf = where(phase == one, value, leaf)
      return xp.asarray(where(begins, begun, leaf), np.int32)

    return GrammarState(
        phase=changed(phase, {
            Phase.HEIGHT: Phase.WIDTH, Phase.WIDTH: Phase.ROW, Phase.ROW: where(row_is_over, Phase.ROW_END, Phase.ROW),
            Phase.ROW_END: where(frame_is_over, where(s.is_video, Phase.FRAME_OVER, Phase.IMAGE_END), Phase.ROW),
            Phase.FRAME_OVER: where(has_sound, Phase.SOUND, Phase.NEXT_FRAME),
            Phase.SOUND: where(is_code, Phase.SOUND, Phase.NEXT_FRAME), Phase.AUDIO: where(is_code, Phase.AUDIO, over),
            Phase.IMAGE_END: over, Phase.NEXT_FRAME: over},
                      where(token == special("AUDIO"), Phase.AUDIO, Phase.HEIGHT)),
        is_video=changed(s.is_video, {}, token == special("VIDEO")),
        height=changed(s.height, {Phase.HEIGHT: size}),
        width=changed(s.width, {Phase.WIDTH: size}),
        row=changed(s.row, {Phase.ROW_END: where(frame_is_over, 0, s.row + 1)}),
        place=changed(s.place, {Phase.ROW: where(row_is_over, 0, s.place + 1), Phase.SOUND: cell_place,
                                Phase.AUDIO: cell_place}),
        count=changed(s.count, {Phase.FRAME_OVER: s.count + ~has_sound, Phase.SOUND: s.count + ~is_code,
                                Phase.AUDIO: s.count + (is_code & (cell_place == 0))}),
        has_sound=changed(s.has_sound, {Phase.FRAME_OVER: has_sound}))

  def _kind(self, xp: Any, s: GrammarState) -> Any:
    """The index into `_kinds` of what may come next."""
    where, index = xp.where, self._kinds.index

    def code(medium: str, place: Any) -> Any:
      """A code by its place in a row or a cell."""
      return index(f"{medium} code 0") + place % self._codes(medium) if self._codes(medium) else 0

    def counted(what: str, code: Any) -> Any:
      """What may come where a cell or a frame may begin, if as many are wanted as are made."""
      if self.cells is None:
        return index(f"{what} or the end")
      return where(s.count < self.cells, code, index(f"the end behind {what}"))

    inside, cell = s.place > 0, code("audio", s.place)
    kinds = {
        Phase.TEXT: index("text"), Phase.BEGIN: index("the only medium"), Phase.DONE: index("the document's end"),
        Phase.HEIGHT: index("a height"), Phase.WIDTH: index("a width"),
        Phase.ROW: where(s.is_video, code("video", s.place), code("image", s.place)),
        Phase.ROW_END: index("ROW_END"), Phase.IMAGE_END: index("IMAGE_END"),
        Phase.FRAME_OVER: where(s.count == 0, index("SOUND or FRAME_END"),
                                where(s.has_sound, index("SOUND"), index("FRAME_END"))),
        Phase.SOUND: where(inside, cell, index("a cell of sound or FRAME_END")),
        Phase.NEXT_FRAME: counted("a frame", code("video", 0)),
        Phase.AUDIO: where(inside, cell, counted("a cell of sound", cell))}
    found = kinds.pop(Phase.TEXT)
    for phase, kind in kinds.items():
      found = where(s.phase == phase, kind, found)
    return found

  def _codes(self, medium: str) -> int:
    """K; 0 for a medium that has no ids."""
    tokens = self.layout.tokens(medium)
    return len(tokens.num_codes) if tokens else 0

  @functools.cached_property
  def _rules(self) -> dict[str, Sequence[range | int]]:
    """The ids that each kind of place in a stream allows."""
    layout, special = self.layout, self.layout.special
    text, sizes = layout.ranges["text"], layout.ranges["size"]
    begin = lambda media: [special(medium.upper()) for medium in MEDIA if medium in media]
    code_0 = lambda medium: layout.code_ranges(medium)[:1] if medium in layout.media else []
    height, width = (sizes, sizes) if self.size is None else (sizes.start - 1 + side for side in self.size)
    rules: dict[str, Sequence[range | int]] = {
        "text": [text, *begin(self.begins)],
        "the only medium": begin({self.only}),
        "the document's end": [text] if layout.eos_id is None else [layout.eos_id],
        "a height": [height], "a width": [width],
        "SOUND or FRAME_END": [special("FRAME_END"), *([special("SOUND")] if layout.audio else [])],
        "a cell of sound or FRAME_END": [*code_0("audio"), special("FRAME_END")]}
    rules |= {name: [special(name)] for name in ("ROW_END", "IMAGE_END", "SOUND", "FRAME_END")}
    for what, medium, end in (("a cell of sound", "audio", "AUDIO_END"), ("a frame", "video", "VIDEO_END")):
      rules |= {f"{what} or the end": [*code_0(medium), special(end)], f"the end behind {what}": [special(end)]}
    for medium in layout.media:
      rules |= {f"{medium} code {k}": [ids] for k, ids in enumerate(layout.code_ranges(medium))}
    return rules

  @functools.cached_property
  def _kinds(self) -> list[str]:
    return list(self._rules)

  @functools.cached_property
  def _masks(self) -> np.ndarray:
    """The ids that each of `_kinds` allows, bool [kinds, V]."""
    masks = np.zeros((len(self._rules), self.layout.size), bool)
    for mask, allowed in zip(masks, self._rules.values()):
      for ids in allowed:
        mask[slice(ids.start, ids.stop) if isinstance(ids, range) else ids] = True
    return masks


@functools.lru_cache(maxsize=8)
def _of_any_media(layout: Layout) -> Grammar:
  return Grammar(layout, frozenset(layout.media))


def stack(states: Sequence[GrammarState]) -> GrammarState:
  """The states of several rows as one, whose leaves are [B]."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
