"""Answers with what a model draws: in one piece, or as a stream of chunks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
import json
import math
import time
from typing import Any, Protocol
import uuid

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt4x.serving import asking
from gpt4x.serving.account import Account
from gpt4x.serving.asking import Asked
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Delta, Event, Finished, Prompted, Served, Token
from gpt4x.serving.drawing import Drawing, drawing
from gpt4x.serving.fields import Fields
from gpt4x.serving.leaving import Left
from gpt4x.serving.problems import Problem
from gpt4x.serving.settings import Settings

LOWEST = -9999.0  # Stands for log-probabilities of what cannot be, which JSON has no number for.


class Shape(Protocol):
  """How the choices of one kind of request are written; made anew for each request."""

  prefix: str  # Of the answer's id.
  kind: str  # Of an answer in one piece.
  chunk_kind: str

  def whole(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
    """A choice in one piece."""

  def opening(self, index: int) -> dict[str, Any] | None:
    """Of the chunk that comes before all others; None: there is none."""

  def part(self, index: int, text: str, tokens: Sequence[Token], reason: str | None = None) -> dict[str, Any]:
    """Of a chunk: what is new of a choice, or the reason that it has ended for."""


async def answer(http: HttpRequest, context: Context, read: Callable[[Fields, Served, Settings], Asked],
                 shape: Callable[[Asked], Shape],
                 complete: Callable[[Asked, HttpRequest, Context], Awaitable[Asked]] | None = None) -> Response:
  """An answer to what `read` makes of a request, and `complete` of that if there is more to be done for it."""
  asked = await asking.received(http, context, read)
  if complete is not None:
    asked = await complete(asked, http, context)
  return _Answer(asked, shape(asked), context)


class _Answer(Response):
  """Has the model draw while it is sent. Raises Problem and Left as long as nothing was."""

  media_type = "text/event-stream"

  def __init__(self, asked: Asked, shape: Shape, context: Context):
    super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
    del self.headers["content-length"]
    self._asked, self._shape, self._context = asked, shape, context
    self._head = {
        "id": f"{shape.prefix}-{uuid.uuid4().hex}", "object": shape.chunk_kind if asked.stream else shape.kind,
        "created": int(time.time()), "model": asked.model.name, "system_fingerprint": None}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async with drawing(self._asked, self._context, scope, receive) as drawn:
      if self._asked.stream:
        await self._stream(drawn, Account.of(scope), send)
        return
      choices: list[list[Event]] = [[] for _ in range(self._asked.count)]
      async for index, event in drawn.events():
        choices[index].append(event)
    written = [self._whole(index, events) for index, events in enumerate(choices)]
    await JSONResponse({**self._head, "choices": written, "usage": drawn.usage})(scope, receive, send)

  def _whole(self, index: int, events: Sequence[Event]) -> dict[str, Any]:
    text = "".join(event.text for event in events if isinstance(event, Delta))
    tokens = [token for event in events if isinstance(event, Delta | Prompted) for token in event.tokens]
    reason = next(event.reason for event in events if isinstance(event, Finished))
    return self._shape.whole(index, self._asked.echo(index) + text, tokens, reason)

  async def _stream(self, drawn: Drawing, account: Account, send: Send) -> None:
    """Server-sent events, ended by [DONE], whatever happens but that the client leaves."""
    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
    write = lambda text: send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
    try:
      async for chunk in self._chunks(drawn):
        await write(_json({**self._head, **chunk}))
    except Left:
      return
    except Exception as error:  # pylint: disable=broad-exception-caught
      account.failed = True
      if not isinstance(error, Problem):
        self._context.log_defect(error)
        error = Problem(500, "the server failed")
      await write(_json(error.body()))
    await write("[DONE]")
    await send({"type": "http.response.body", "body": b"", "more_body": False})

  async def _chunks(self, drawn: Drawing) -> AsyncIterator[dict[str, Any]]:
    extra = {"usage": None} if self._asked.include_usage else {}
    for index in range(self._asked.count):
      if choice := self._shape.opening(index):
        yield {"choices": [choice], **extra}
    async for index, event in drawn.events():
      if choice := self._part(index, event):
        yield {"choices": [choice], **extra}
    if self._asked.include_usage:
      yield {"choices": [], "usage": drawn.usage}

  def _part(self, index: int, event: Event) -> dict[str, Any] | None:
    match event:
      case Prompted(tokens):
        return self._shape.part(index, self._asked.echo(index), tokens)
      case Delta(text, tokens) if text or (tokens and self._asked.top is not None):
        return self._shape.part(index, text, tokens)
      case Finished(reason):
        return self._shape.part(index, "", (), reason)
    return None


def _json(value: Any) -> str:
  return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def log_prob(value: float) -> float:
  return max(float(value), LOWEST) if math.isfinite(value) else LOWEST
