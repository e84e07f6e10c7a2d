"""The text of a row as its tokens come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
import dataclasses
from typing import Literal, TYPE_CHECKING

if TYPE_CHECKING:
  import seqio

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # What a character of several bytes is decoded to before its last has come.


@dataclasses.dataclass(frozen=True)
class Completion:
  """What a model wrote behind a prompt."""

  prompt: str
  sample: int  # Which of the prompt's samples, from 0.
  text: str  # Ends before the first stop.
  finish_reason: Literal["eos", "stop", "length"]  # The text ended, a stop came, or max_tokens were drawn.
  tokens: list[int]  # All that were drawn, with EOS or those of the stop.
  log_probs: list[float]  # Of each token, by the model, before temperature and filters.


class Text:
  """Takes a row's tokens and gives its text; the same whichever tokens come together.

  However long it gets, a token costs the same: what ended with a whole character is not decoded again, but for the
  tokens of the last call before, since a piece may begin with a space, or join what it follows.
  """

  def __init__(self, vocabulary: seqio.Vocabulary, prompt_ids: Sequence[int], max_tokens: int,
               stop: Sequence[str] = (), ends: Collection[int] | None = None):
    """Takes what was before, and what ends the text: tokens (None: the end of its document), texts, a length."""
    self._vocabulary, self._max_tokens, self._stop = vocabulary, max_tokens, stop
    self._ends = {vocabulary.eos_id} if ends is None else ends
    # And what is written. Decoding stops at the first end of a document, of which a conversation has several.
    self._ids = list(prompt_ids)[_behind_last(vocabulary.eos_id, prompt_ids):]
    self._context, self._known, self._prompt_length = 0, len(self._ids), len(self._ids)
    self._settled, self._shown = "", 0  # The text of the first `_known` ids, and how much of the text is shown.
    self.tokens: list[int] = []
    self.log_probs: list[float] = []
    self.text = ""
    self.finish_reason: Literal["eos", "stop", "length"] | None = None  # None: it goes on.

  def add(self, tokens: Sequence[int], log_probs: Sequence[float]) -> str:
    """Takes more tokens, as far as the text goes on; returns what is new of the text and sure to stay."""
    if self.finish_reason:
      return ""
    before = len(self.tokens)
    for token, log_prob in zip(tokens, log_probs):
      self.tokens.append(int(token))
      self.log_probs.append(float(log_prob))
      if token in self._ends:
        self.finish_reason = "eos"
        break
      self._ids.append(int(token))
      if len(self.tokens) == self._max_tokens:
        self.finish_reason = "length"
        break
    finished = lambda count: self._decode(count).rstrip(_UNFINISHED)
    whole = self._decode(len(self.tokens))
    self.text = whole.rstrip(_UNFINISHED)
    if any(stop in self.text for stop in self._stop):
      # The first token that completes a stop is the last, wherever a piece begins.
      count = next(count for count in range(before + 1, len(self.tokens) + 1)
                   if any(stop in finished(count) for stop in self._stop))
      del self.tokens[count:], self.log_probs[count:]
      text = finished(count)
      self.text = text[:min(place for stop in self._stop if (place := text.find(stop)) >= 0)]
      self.finish_reason = "stop"
    sure = len(self.text) - (0 if self.finish_reason else self._begun_stop())
    if len(whole) == len(self.text):
      # Some vocabularies decode the first bytes of a character to nothing: at most three, of the last tokens.
      context = max(0, min(self._known, len(self._ids) - 3))
      self._settled, self._context, self._known = whole, context, len(self._ids)
    new, self._shown = self.text[self._shown:sure], max(sure, self._shown)
    return new

  def _decode(self, count: int) -> str:
    """The text of so many tokens, of which the last characters may be unfinished."""
    decode = self._vocabulary.decode
    known = decode(self._ids[self._context:self._known])
    return self._settled + decode(self._ids[self._context:self._prompt_length + count])[len(known):]

  def _begun_stop(self) -> int:
    """How many characters at the end of the text may turn out to begin a stop."""
    return max((length for stop in self._stop for length in range(1, len(stop)) if self.text.endswith(stop[:length])),
               default=0)


def _behind_last(token: int | None, ids: Sequence[int]) -> int:
  """The place behind the last of a token; 0 if there is none."""
  backwards = list(reversed(ids))
  return len(ids) - (backwards.index(token) if token in backwards else len(ids))
