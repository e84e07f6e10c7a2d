"""A request on its way."""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import logging
from typing import Literal

from gpt4x.inference.engine import Chunk
from gpt4x.inference.text import Text
from gpt4x.serving.contract import Delta, Event, Finished, Request, Token

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Job:
  """What is asked, and what the client has been told.

  Attributes:
    request: the request.
    text: takes its tokens.
    deliver: tells the client.
    counts: of the server, to which its tokens are added.
    cached: tokens of its prompt that were known.
    cancelled: whether nobody listens any more.
  """

  request: Request
  text: Text
  deliver: Callable[[Event], None]
  counts: Counter[str]
  cached: int = 0
  cancelled: bool = False
  _delivered: int = 0  # Tokens.
  _tops: list[Sequence[tuple[int, float]]] = dataclasses.field(default_factory=list)

  def cancel(self) -> None:
    """Frees its slot or its place in the queue; nothing more is delivered."""
    self.cancelled = True

  def tell(self, event: Event) -> None:
    if self.cancelled:
      return
    try:
      self.deliver(event)
    except Exception:  # Who asked is gone.
      _LOG.exception("an event could not be delivered")
      self.cancelled = True

  def take(self, chunk: Chunk, row: int) -> bool:
    """Tells the tokens of a row; whether it goes on."""
    if self.cancelled:
      return False
    text, top = self.text, self.request.top
    if top and chunk.alternatives:
      ids, log_probs = (one[row] for one in chunk.alternatives)
      self._tops += [likeliest(*both, top) for both in zip(ids, log_probs)]
    new = text.add(chunk.tokens[row], chunk.log_probs[row])
    numbers = range(self._delivered, len(text.tokens))
    tokens = [Token(text.tokens[i], text.log_probs[i], self._tops[i] if top else ()) for i in numbers]
    self.counts["generated_tokens"] += len(tokens)
    self._delivered = len(text.tokens)
    if new or tokens:
      self.tell(Delta(new, tokens))
    if text.finish_reason:
      self.finish("length" if text.finish_reason == "length" else "stop")
    return not (text.finish_reason or self.cancelled)

  def finish(self, reason: Literal["stop", "length"]) -> None:
    self.tell(Finished(reason, len(self.request.ids), len(self.text.tokens), self.cached))


def likeliest(ids: Sequence[int], log_probs: Sequence[float], count: int) -> list[tuple[int, float]]:
  """The first so many, as numbers of Python."""
  return [(int(token), float(log_prob)) for token, log_prob in zip(ids[:count], log_probs[:count])]
