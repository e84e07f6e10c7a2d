"""MediaVocabulary: text, images, sounds and videos as ids of one vocabulary."""

from collections.abc import Iterable, Mapping, Sequence
import copy
import dataclasses
import hashlib
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import numpy as np
import seqio

from gpt4x.data import vocabularies
from gpt4x.data.vocabularies import composed
from gpt4x.errors import UserError
from gpt4x.media import fitting, vocabulary_content
from gpt4x.media.layout import Layout, MODALITIES, Span
from gpt4x.media.medium import Audio, Codec, Image, Medium, Video
from gpt4x.media.tokens import MediaTokens
from gpt4x.media.vocabulary_content import Content

__all__ = ["MediaTokens", "MediaVocabulary"]


@vocabularies.register
class MediaVocabulary(composed.ExtendedVocabulary):
  """A text vocabulary, whose ids stay as they are, and behind them the codes of codecs; see `layout.py`.

  The file that a run keeps holds all of it, codecs included. What a target counts for in training is not part of it:
  models of other weights have the same vocabulary.
  """

  def __init__(self, tokens: MediaTokens | None = None):
    """Takes what it is made of; None: what gin says of MediaTokens at the time of reading."""
    super().__init__()
    self._tokens, self._where = tokens, ""
    self._weights: Mapping[str, float] | None = None

  # How it is kept.

  @property
  def file(self) -> str:
    """The file that it was read from; or the codecs' directories."""
    if self._where:
      return self._where
    named = [(medium, getattr(self._named, medium)) for medium in ("image", "audio", "video")]
    return ", ".join(name for medium, name in named if name and not vocabulary_content.is_exact(medium, name))

  @property
  def arguments(self) -> dict[str, Any]:
    return self._parts.describe() | {"loss_weights": self._weight_by_modality}

  @classmethod
  def from_bytes(cls, content: bytes, file: str = "", loss_weights: Mapping[str, float] | None = None,
                 **described: str) -> "MediaVocabulary":
    """See FileVocabulary; `described` is in the content too."""
    del described
    made = cls()
    made._where, made._held = file, content
    made._weights = MediaTokens(loss_weights=loss_weights or {}).loss_weights
    made._check()
    return made

  def held(self, own: seqio.Vocabulary | None = None) -> "MediaVocabulary":
    """See FileVocabulary. The text vocabulary of `own` takes the place of one that is known by its name alone."""
    if self._held is not None:
      return self
    made, tokens = copy.copy(self), self._named
    own_text = own.text if isinstance(own, MediaVocabulary) else None
    text = vocabularies.held(composed.text_of(tokens.text), own_text)
    made._where, made._tokens, made._weights = self.file, tokens, tokens.loss_weights
    made._held = vocabulary_content.found(tokens, text)
    made._check()
    return made

  @property
  def fingerprint(self) -> str:
    """Changes with whatever may change an id."""
    return hashlib.sha256(self._content()).hexdigest()[:16]

  def __eq__(self, other: Any) -> bool:
    mine, theirs = ((one._tokens, one._held, one._weights) if isinstance(one, MediaVocabulary) else None
                    for one in (self, other))
    return mine == theirs

  def _content(self) -> bytes:
    return self._held if self._held is not None else vocabulary_content.found(self._named)

  @property
  def _named(self) -> MediaTokens:
    return self._tokens or MediaTokens()

  @property
  def _parts(self) -> Content:
    return vocabulary_content.unpacked(self._content(), self._where or "MediaTokens")

  # What it has.

  @property
  def text(self) -> seqio.Vocabulary:
    """The vocabulary of text, to which the first ids belong."""
    return self._parts.text

  @property
  def layout(self) -> Layout:
    return self._parts.layout

  @property
  def codecs(self) -> Mapping[str, Codec]:
    """By medium."""
    return self._parts.codecs

  @property
  def settings(self) -> dict[str, Any]:
    """How media are made to fit the codecs: MediaTokens.settings."""
    return self._parts.settings

  @property
  def modality(self) -> np.ndarray:
    """The index into MODALITIES of each id, [V] int32."""
    return self.layout.modality

  @property
  def loss_weights(self) -> np.ndarray:
    """What each id counts for as a target, [V] float32."""
    weights = self._weight_by_modality
    return np.array([weights[name] for name in MODALITIES], np.float32)[self.modality]

  @property
  def _weight_by_modality(self) -> dict[str, float]:
    weights = dict.fromkeys(MODALITIES, 1.0)
    for medium, codec in self.codecs.items():
      if not codec.exact:
        weights[medium] = 1 / len(codec.num_codes) if medium == "audio" else 0.5
    given = self._named.loss_weights if self._weights is None else self._weights
    return weights | {name: float(weight) for name, weight in given.items()}

  @property
  def _base_vocab_size(self) -> int:
    return self.layout.size

  # Text and media to ids, and back.

  def _decode(self, ids: Iterable[int]) -> str:
    parts = self.layout.parse(list(ids))
    return "".join(f"<{part.medium}>" if isinstance(part, Span) else self.text.decode(part.tolist()) for part in parts)

  def encode_parts(self, parts: Iterable[str | Medium | Span]) -> np.ndarray:
    """The ids of texts and media in their order, int32; a medium may be given as its codes."""
    parts = list(parts)
    spans = iter(self.encode_media([part for part in parts if isinstance(part, Medium)]))
    ids = [np.asarray(self.encode(part), np.int32) if isinstance(part, str) else
           self.layout.flatten(part if isinstance(part, Span) else next(spans)) for part in parts]
    return np.concatenate([np.zeros(0, np.int32), *ids])

  def decode_parts(self, ids: Sequence[int] | np.ndarray) -> list[str | Medium]:
    """Texts and media in their order. The ends of documents are left out, and so are media of which nothing came."""
    parts = list[str | Medium]()
    for part in self.layout.parse(ids):
      if isinstance(part, Span):
        if part.codes.size:
          medium = self.decode_medium(part)
          # Frames of a learned sound overlap by half: one cell alone has no sample.
          if not isinstance(medium, Audio) or medium.samples.size:
            parts.append(medium)
      elif text := self.text.decode([i for i in part.tolist() if i != self.eos_id]):
        parts.append(text)
    return parts

  def encode_media(self, media: Sequence[Medium]) -> list[Span]:
    """The codes of media, made to fit as MediaTokens has it; many at a time are faster."""
    found: list[Any] = [None] * len(media)
    for kind in (Image, Audio, Video):
      places = [i for i, medium in enumerate(media) if isinstance(medium, kind)]
      codes = self._encode_all(kind.medium, [media[i] for i in places])
      for i, one in zip(places, codes):
        found[i] = Span(kind.medium, one)
    if "audio" in self.codecs:
      sounds = {i: medium.sound for i, medium in enumerate(media) if isinstance(medium, Video) and medium.sound}
      for i, cells in zip(sounds, self._encode_all("audio", list(sounds.values()))):
        found[i] = dataclasses.replace(found[i], sound=shared_out(cells, len(found[i].codes)))
    return found

  def decode_medium(self, span: Span) -> Medium:
    """The medium of a span's codes."""
    medium = self._codec(span.medium).decode(span.codes)
    if isinstance(medium, Video) and span.sound is not None:
      sound: Any = self._codec("audio").decode(np.concatenate(span.sound))
      medium = dataclasses.replace(medium, sound=sound)
    return medium

  def _encode_all(self, medium: str, media: Sequence[Medium]) -> Sequence[np.ndarray]:
    if not media:
      return []
    codec = self._codec(medium)
    fitted = [fitting.fit(one, codec, self.settings) for one in media]
    for one in fitted:
      if not isinstance(one, Audio):  # Told before a codec has run over what may be any size.
        shape, patch = (one.pixels if isinstance(one, Image) else one.frames).shape, getattr(codec, "patch", 1)
        height, width = (max(1, -(-side // patch)) for side in shape[-3:-1])
        self.layout.check_size(height, width, medium)
    return codec.encode_all(fitted)

  def _codec(self, medium: str) -> Codec:
    if medium not in self.codecs:
      raise UserError(f"the vocabulary has no codec of {medium}: set MediaTokens.{medium}, or leave the {medium} out")
    return self.codecs[medium]


def shared_out(cells: np.ndarray, frames: int) -> tuple[np.ndarray, ...]:
  """The cells of a sound for each of so many frames, as evenly as can be."""
  return tuple(cells[len(cells) * i // frames:len(cells) * (i + 1) // frames] for i in range(frames))
