"""Where tokens begin in the text that they make."""

import codecs
from collections.abc import Sequence

from gpt4x.serving.contract import Served

_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class Offsets:
  """Counts in characters of the text that is sent; parts of one character begin where it does.

  A text and its tokens come apart: a character is sent with the last of its tokens, and what may begin a stop is held
  back. Bytes that are no UTF-8 make nothing in some vocabularies, and replacement characters in others. So what tokens
  say is followed through the text that came.
  """

  def __init__(self, model: Served):
    self._model = model
    self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    self._at = 0  # Characters whose tokens are known.
    self._text, self._place = "", 0  # What was sent last, and how much of it is among these.
    self._behind = ""  # What tokens say and was not sent yet.

  def __call__(self, text: str, tokens: Sequence[int]) -> list[int]:
    """The offsets of tokens that come next, with a text."""
    self._text, self._place = self._text[self._place:] + text, 0
    behind, self._behind = self._behind, ""
    for one in behind:
      self._pass(one)
    return [self._begins(self._decoder.decode(self._model.raw(token))) for token in tokens]

  def _begins(self, piece: str) -> int:
    """Where a piece begins, behind which the next one does."""
    return [*map(self._pass, piece.replace(_NO_CHARACTER, "")), self._at + len(self._behind)][0]

  def _pass(self, one: str) -> int:
    """Where a character is; no other is looked for before it."""
    while self._text[self._place:self._place + 1] == _NO_CHARACTER:
      self._place, self._at = self._place + 1, self._at + 1
    found = self._text[self._place:self._place + 1]
    if not found:
      self._behind += one
      return self._at + len(self._behind) - 1
    if self._at == 0 and one == " " != found:  # Vocabularies of pieces have it ahead of a text, which has it not.
      return 0
    self._place, self._at = self._place + 1, self._at + 1
    return self._at - 1
