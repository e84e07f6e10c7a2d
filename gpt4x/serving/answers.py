"""Making choices and writing them down: what completions and conversations share of their answers."""

from collections.abc import AsyncIterator, Mapping, Sequence
import json
import time
from typing import Any, Protocol
import uuid

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt4x.serving.account import Account
from gpt4x.serving.asking import Asked
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Delta, Event, Failed, Finished, Prompted
from gpt4x.serving.problems import Problem
from gpt4x.serving.streams import failure, Left, Running


class Shape(Protocol):
  """How the events of one kind of request are written."""

  def whole(self, choices: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    """The choices of an answer in one piece."""

  def opening(self) -> list[dict[str, Any]]:
    """Choices of chunks that come before all events."""

  def chunks(self, index: int, event: Event) -> list[dict[str, Any]]:
    """Choices of the chunks for an event: each of them one choice."""


def header(prefix: str, kind: str, model: str) -> dict[str, Any]:
  return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model,
          "system_fingerprint": None}


def usage(asked: Asked, ends: Mapping[int, Finished]) -> dict[str, Any]:
  """Tokens of a request; a prompt counts once, however many continuations it has."""
  firsts = [ends[index] for index in sorted(ends) if index % asked.n == 0]
  prompt, drawn = sum(end.prompt_tokens for end in firsts), sum(end.completion_tokens for end in ends.values())
  return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn,
          "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in firsts)}}


async def answer(http: HttpRequest, context: Context, asked: Asked, shape: Shape, prefix: str, kind: str) -> Response:
  """Draws the choices of a request: the answer, or a stream of chunks of it. Raises Problem and Left."""
  if asked.stream:
    return _Stream(context, asked, shape, header(prefix, kind + ".chunk" * (prefix == "chatcmpl"), asked.model.name))
  requests = asked.requests()
  async with Running(context.lifecycle, None) as running:
    running.submit(asked.model, requests)
    running.watch(http.receive)
    choices: list[list[Event]] = [[] for _ in requests]
    ends: dict[int, Finished] = {}
    async for index, event in context.metrics.timed(asked.model.name, running.events(len(requests))):
      if isinstance(event, Failed):
        raise failure(event)
      choices[index].append(event)
      if isinstance(event, Finished):
        ends[index] = event
  used = usage(asked, ends)
  account(http.scope).set(used["prompt_tokens"], used["completion_tokens"])
  return JSONResponse({**header(prefix, kind, asked.model.name), "choices": shape.whole(choices), "usage": used})


def account(scope: Scope) -> Account:
  return scope.get("gpt4x.account") or Account()


class _Stream(Response):
  """Server-sent events, ended by [DONE], whatever happens but that the client leaves."""

  media_type = "text/event-stream"

  def __init__(self, context: Context, asked: Asked, shape: Shape, head: dict[str, Any]):
    super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
    del self.headers["content-length"]
    self._context, self._asked, self._shape, self._head = context, asked, shape, head

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async with Running(self._context.lifecycle, self._context.settings.max_pending) as running:
      running.submit(self._asked.model, self._asked.requests())  # Overloaded: the status can still say so.
      running.watch(receive)
      await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
      write = lambda text: send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
      try:
        async for chunk in self._chunks(running, scope):
          await write(_json(chunk))
      except Left:
        return
      except Problem as problem:
        account(scope).failed = True
        await write(_json(problem.body()))
      except Exception as error:  # pylint: disable=broad-exception-caught
        account(scope).failed = True
        self._context.log_defect(error)
        await write(_json(Problem(500, "the server failed").body()))
      await write("[DONE]")
      await send({"type": "http.response.body", "body": b"", "more_body": False})

  async def _chunks(self, running: Running, scope: Scope) -> AsyncIterator[dict[str, Any]]:
    extra = {"usage": None} if self._asked.include_usage else {}
    count = len(self._asked.prompts) * self._asked.n
    ends: dict[int, Finished] = {}
    for choice in self._shape.opening():
      yield {**self._head, "choices": [choice], **extra}
    async for index, event in self._context.metrics.timed(self._asked.model.name, running.events(count)):
      if isinstance(event, Failed):
        raise failure(event)
      if isinstance(event, Finished):
        ends[index] = event
      for choice in self._shape.chunks(index, event):
        yield {**self._head, "choices": [choice], **extra}
    used = usage(self._asked, ends)
    account(scope).set(used["prompt_tokens"], used["completion_tokens"])
    if self._asked.include_usage:
      yield {**self._head, "choices": [], "usage": used}


def _json(value: Any) -> str:
  return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def text_of(events: Sequence[Event]) -> str:
  return "".join(event.text for event in events if isinstance(event, Delta))


def tokens_of(events: Sequence[Event]) -> list[Any]:
  return [token for event in events if isinstance(event, Delta | Prompted) for token in event.tokens]


def reason_of(events: Sequence[Event]) -> str | None:
  return next((event.reason for event in events if isinstance(event, Finished)), None)
