"""What the HTTP side asks of a model that is served, and what comes back."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Literal, NamedTuple, Protocol

import numpy as np

from gpt4x.inference.sampling import Sampling


class Overloaded(Exception):
  """There is no room in the queue; `retry_after` is in seconds."""

  def __init__(self, retry_after: float):
    super().__init__("too many requests wait: try again later")
    self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class Request:
  """One continuation.

  Attributes:
    ids: of the prompt, without the start; may be empty.
    max_tokens: to draw at most; 0: none, the prompt alone is read.
    sampling: how tokens are drawn.
    seed, sample: what the draws follow from, with the prompt alone.
    stop: texts that end the continuation, which ends before them.
    top: how many of the likeliest tokens come with each, up to 20.
    prompt_log_probs: whether the log-probabilities of the prompt's own tokens are wanted, ahead of everything.
  """

  ids: tuple[int, ...]
  max_tokens: int
  sampling: Sampling
  seed: int = 0
  sample: int = 0
  stop: tuple[str, ...] = ()
  top: int = 0
  prompt_log_probs: bool = False


class Token(NamedTuple):
  """A token, its log-probability by the model before temperature and filters, and the likeliest in its place."""

  id: int
  log_prob: float | None  # None: of a document's first token as a prompt has it, where nothing is known.
  top: Sequence[tuple[int, float]] = ()


class Prompted(NamedTuple):
  """The prompt's own tokens, where they were asked for; comes first."""

  tokens: Sequence[Token]


class Delta(NamedTuple):
  """What is new of a continuation: text that is sure to stay (it may be empty), and tokens."""

  text: str
  tokens: Sequence[Token]


class Finished(NamedTuple):
  """The end: `stop` for the end of the document or a stop text, `length` for max_tokens."""

  reason: Literal["stop", "length"]
  prompt_tokens: int
  completion_tokens: int
  cached_tokens: int  # Of the prompt, those that were known from another.


class Failed(NamedTuple):
  """The end where something went wrong; the message names no path and no prompt."""

  message: str


Event = Prompted | Delta | Finished | Failed


class Ticket(Protocol):
  """A request that was taken in."""

  def cancel(self) -> None:
    """Frees its slot or its place in the queue, within a chunk of decoding; nothing more is delivered."""


class Served(Protocol):
  """A model that is served. All of it may be called from any thread, and no call waits for decoding but `embed`."""

  name: str
  created: int  # Seconds since the epoch.
  num_ids: int  # Ids are below.
  window: int  # Latest positions in view; longer prompts are taken, for the memory carries.
  capacity: int  # Requests that run and wait at a time, at most.
  chat_refusal: str | None  # Why `chat` is refused; None: it is not.

  def encode(self, text: str) -> list[int]:
    """The ids of a text; a UserError for one that the model cannot read."""

  def text(self, token: int) -> str:
    """A token as text; parts of characters as replacement characters."""

  def raw(self, token: int) -> bytes:
    """A token as bytes of UTF-8, as far as the vocabulary tells."""

  def chat(self, messages: Sequence[Mapping[str, object]]) -> tuple[list[int], tuple[str, ...]]:
    """The ids of a conversation, up to where the answer begins, and texts that end the answer; a UserError for
    messages that the template refuses. Contents are texts, or lists of parts, of which media are refused with a line
    where the model has them not."""

  def submit(self, request: Request, deliver: Callable[[Event], None]) -> Ticket:
    """Takes a request in, or raises Overloaded. `deliver` is called from another thread, in order, ending with
    Finished or Failed; it must not wait."""

  def embed(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """float32 [n, D], the mean of the last hidden states of n texts, none of them empty; waits."""

  def ready(self) -> bool:
    """Whether everything is compiled and requests are taken."""

  def figures(self) -> Mapping[str, float]:
    """What is now: `running`, `waiting`, `slots`, and counts since the start: `prompt_tokens`, `generated_tokens`,
    `cached_tokens`, `compilations`."""
