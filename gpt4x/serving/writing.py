"""Tokens as text, bytes and numbers of JSON."""

import codecs
from collections.abc import Sequence
import math

from gpt4x.serving.contract import Served

LOWEST = -9999.0  # Stands for log-probabilities of what cannot be, which JSON has no number for.


def log_prob(value: float) -> float:
  return max(float(value), LOWEST) if math.isfinite(value) else LOWEST


def label(model: Served, token: int) -> str:
  """A token as a text that is its own: parts of characters as `bytes:` and their values."""
  raw = model.raw(token)
  try:
    return raw.decode()
  except UnicodeDecodeError:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Offsets:
  """Where tokens begin in the text that they make, in characters; parts of one character begin where it does."""

  def __init__(self, model: Served, text: str):
    """`text` is what is made, or how it begins: vocabularies of pieces have a space ahead of it, which it has not."""
    self._model, self._at, self._text = model, 0, text
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
    self._first = True

  def __call__(self, tokens: Sequence[int]) -> list[int]:
    """The offsets of the tokens that come next."""
    found = []
    for token in tokens:
      found.append(self._at)
      piece = self._decoder.decode(self._model.raw(token))
      self._at += len(piece) - (self._first and piece[:1] == " " and self._text[:1] not in ("", " "))
      self._first = False
    return found


def joined(model: Served, tokens: Sequence[int]) -> str:
  return b"".join(model.raw(token) for token in tokens).decode("utf-8", "replace")
