"""Guesses of a small model for a larger one that has its vocabulary (arXiv:2211.17192)."""

from collections.abc import Sequence

from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.models.language_model import Params


class DraftModel:
  """A `speculation.Proposer`: what the small model finds likeliest behind a text.

  What it has read of a text is kept for the next guess; guesses themselves leave nothing.
  """

  def __init__(self, engine: Engine, params: Params):
    """Takes an engine that draws the likeliest tokens, and its parameters."""
    self._engine, self._params = engine, params
    self._text: list[int] = []
    self._row: Prefilled | None = None  # What `_text` leaves.

  def __call__(self, text: Sequence[int], count: int) -> list[int]:
    known = len(self._text)
    if self._row is None or list(text[:known]) != self._text:
      self._row, known = self._engine.begin(self._params), 0
    self._row, self._text = self._engine.extend(self._params, self._row, text[known:]), list(text)
    chunk, _ = self._engine.step(self._params, self._engine.start(self._params, self._row), count)
    return chunk.tokens[0].tolist()
