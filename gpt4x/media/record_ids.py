"""Records of text and media as ids, for who reads them without a task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt4x.data.named_files import stat_of
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media import reading
from gpt4x.media.layout import Span
from gpt4x.media.records import File, Part
from gpt4x.media.vocabulary import shared_out


def encode(given: Sequence[tuple[str, Sequence[Part]]], vocabulary: Any,
           options: Mapping[str, Any]) -> list[np.ndarray]:
  """The ids of (place, parts) of each record, int32, as a run with this vocabulary has them in its data.

  `options` are those of LocalMedia. Raises UserError, with the place, for a medium that the vocabulary does not know
  and for a file that cannot be read.
  """
  files, known = dict[tuple[str, str], str](), getattr(vocabulary, "codecs", None) or {}
  for place, parts in given:
    for part in parts:
      if isinstance(part, File):
        if part.medium not in known:
          raise UserError(f"{shown(place)}: the model knows no {part.medium}, only {', '.join(('text', *known))}: take"
                          f" the {part.medium} out, or choose a model that was trained with MediaTokens.{part.medium}")
        files.setdefault((part.medium, part.path), place)
  codes = reading.codes([(medium, stat_of(path)) for medium, path in files], options, vocabulary) if files else {}
  for file, place in files.items():
    if isinstance(error := codes[file], UserError):
      raise UserError(f"{shown(place)}: {error}")
  found = []
  for place, parts in given:
    try:
      found.append(_ids([part if isinstance(part, str) else _span(part.medium, codes[part]) for part in parts],
                        vocabulary))
    except UserError as error:
      raise UserError(f"{shown(place)}: {error}") from error
    if not found[-1].size:
      raise UserError(f"{shown(place)}: its text has no token in the vocabulary of the model: correct it, or take it"
                      " out")
  return found


def _span(medium: str, codes: Any) -> Span:
  if isinstance(codes, tuple):  # A video with sound.
    pictures, sound = codes
    return Span(medium, pictures, shared_out(sound, len(pictures)))
  return Span(medium, codes)


def _ids(parts: Sequence[str | Span], vocabulary: Any) -> np.ndarray:
  if getattr(vocabulary, "codecs", None):
    return vocabulary.encode_parts(parts)
  return np.asarray(vocabulary.encode("".join(map(str, parts))), np.int32).reshape(-1)
