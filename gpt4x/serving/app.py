"""The routes: models, completions, chat, embeddings, health, metrics, and a page."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
import threading
import time
from typing import Any
import uuid

import numpy as np
from starlette import applications, requests, responses, routing
from starlette.exceptions import HTTPException

from gpt4x.serving import asked as reading
from gpt4x.serving.answers import event, failure, Writer
from gpt4x.serving.asked import Asked, Limits
from gpt4x.serving.contract import Event, Failed, Finished, Overloaded, Served, Ticket
from gpt4x.serving.fields import Fields, parse, Refused
from gpt4x.serving.guard import Guard, Receive, refusal, Rules, Scope, Send
from gpt4x.serving.metrics import Metrics

_PAGE = pathlib.Path(__file__).with_name("page.html")
_EMBEDDING = 8  # Requests for vectors at a time; they are computed in turn.


class Server:
  """Models by their names, as an ASGI application."""

  def __init__(self, models: Mapping[str, Served], limits: Limits | None = None,
               rules: Rules | None = None):
    self.models, self._limits, self.metrics = models, limits or Limits(), Metrics(models)
    self.stopping, self.answering = False, 0
    self._embedding = threading.Semaphore(_EMBEDDING)
    get, post = functools.partial(routing.Route, methods=["GET"]), functools.partial(routing.Route, methods=["POST"])
    routes = [
        get("/", self._page), get("/health", self._health), get("/ready", self._ready), get("/metrics", self._metrics),
        get("/v1/models", self._list), get("/v1/models/{name}", self._one),
        post("/v1/completions", self._answered(functools.partial(self._text, chat=False))),
        post("/v1/chat/completions", self._answered(functools.partial(self._text, chat=True))),
        post("/v1/embeddings", self._answered(self._vectors))]
    self.routes = routes
    handlers: dict[Any, Any] = {Refused: lambda _, refused: refusal(refused), HTTPException: _other,
                                Exception: _broken}
    inner = applications.Starlette(routes=routes, exception_handlers=handlers)
    paths = [route.path for route in routes if "{" not in route.path]
    self.app = Guard(inner, dataclasses.replace(rules or Rules(), paths=frozenset(paths)), self.metrics.count)

  # What is there.

  async def _health(self, _: requests.Request) -> responses.Response:
    return responses.JSONResponse({"status": "alive"})

  async def _ready(self, _: requests.Request) -> responses.Response:
    ready = not self.stopping and all(model.ready() for model in self.models.values())
    return responses.JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

  async def _metrics(self, _: requests.Request) -> responses.Response:
    return responses.Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

  async def _list(self, _: requests.Request) -> responses.Response:
    return responses.JSONResponse({"object": "list", "data": [_described(one) for one in self.models.values()]})

  async def _one(self, request: requests.Request) -> responses.Response:
    return responses.JSONResponse(_described(self._model(request.path_params["name"])))

  async def _page(self, _: requests.Request) -> responses.Response:
    content = _PAGE.read_text("utf-8")
    hashes = {kind: " ".join(_hash(part) for part in re.findall(rf"<{kind}>(.*?)</{kind}>", content, re.DOTALL))
              for kind in ("script", "style")}
    return responses.HTMLResponse(content, headers={
        "content-security-policy": (f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']};"
                                    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"})

  # What is asked.

  def _model(self, name: Any) -> Served:
    if not isinstance(name, str) or name not in self.models:
      raise Refused(f"there is no such model: use one of {', '.join(self.models)}", "model", 404, "model_not_found")
    return self.models[name]

  def _answered(self, answer: Callable[[Fields, Served], Any]) -> Callable:
    """A route that reads a body; while the server stops there are no new ones."""
    async def route(request: requests.Request) -> Any:
      if self.stopping:
        raise Refused("the server is stopping", status=503, kind="server_error", retry_after=5)
      if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refused("the body must be application/json", status=415)
      fields = parse(await request.body())
      name = fields.any("model")
      # Of one model the name may be left out.
      model = self._model(next(iter(self.models)) if name is None and len(self.models) == 1 else name)
      self.answering += 1
      try:
        found = await answer(fields, model)
      except BaseException:
        self.answering -= 1
        raise
      return _Counted(found, self)

    return route

  async def _text(self, fields: Fields, model: Served, chat: bool) -> Any:
    # Long prompts take their time to read, in which others are answered.
    asked = await asyncio.to_thread(reading.chat if chat else reading.completion, fields, model, self._limits)
    writer = Writer(uuid.uuid4().hex, int(time.time()), asked, model, chat)
    running = _Running(model, asked, self.metrics)
    running.submit()
    return _Streamed(running, writer) if asked.stream else _Whole(running, writer)

  async def _vectors(self, fields: Fields, model: Served) -> responses.Response:
    asked = await asyncio.to_thread(reading.embedding, fields, model, self._limits)
    if not self._embedding.acquire(blocking=False):
      raise Refused("too many requests wait: try again later", status=429, kind="rate_limit_error", retry_after=1)
    try:
      vectors = await asyncio.to_thread(model.embed, asked.ids)
    finally:
      self._embedding.release()
    write = (lambda one: base64.b64encode(one.astype("<f4").tobytes()).decode()) if asked.base64 else np.ndarray.tolist
    tokens = sum(map(len, asked.ids))
    return responses.JSONResponse({
        "object": "list", "model": model.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": [{"object": "embedding", "index": i, "embedding": write(one)} for i, one in enumerate(vectors)]})


class _Counted:
  """An answer, counted until it is sent."""

  def __init__(self, answer: Any, server: Server):
    self._answer, self._server = answer, server

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    try:
      await self._answer(scope, receive, send)
    finally:
      self._server.answering -= 1


class _Running:
  """The continuations of a request, whose events come from the models' threads."""

  def __init__(self, model: Served, asked: Asked, metrics: Metrics):
    self._model, self._asked, self._metrics = model, asked, metrics
    self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    self._tickets: list[Ticket] = []

  def submit(self) -> None:
    """Takes them in, all or none."""
    loop = asyncio.get_running_loop()

    def deliver(number: int, one: Event) -> None:
      loop.call_soon_threadsafe(self._events.put_nowait, (number, one))

    try:
      for number, request in enumerate(self._asked.requests):
        self._tickets.append(self._model.submit(request, functools.partial(deliver, number)))
    except Overloaded as error:
      self.cancel()
      raise Refused(str(error), status=429, kind="rate_limit_error", code="overloaded",
                    retry_after=error.retry_after) from None

  def cancel(self) -> None:
    for ticket in self._tickets:
      ticket.cancel()

  async def events(self) -> AsyncIterator[tuple[int, Event]]:
    """All of them, up to where each continuation ends or one fails."""
    started, firsts = time.monotonic(), dict[int, float]()
    left = len(self._tickets)
    while left:
      number, one = await self._events.get()
      now = time.monotonic()
      if number not in firsts and not isinstance(one, Failed):
        firsts[number] = now
        self._metrics.first.labels(self._model.name).observe(now - started)
      if isinstance(one, Finished):
        left -= 1
        if one.completion_tokens > 1:
          self._metrics.each.labels(self._model.name).observe((now - firsts[number]) / (one.completion_tokens - 1))
      yield number, one
      if isinstance(one, Failed):
        return

  @contextlib.asynccontextmanager
  async def watched(self, receive: Receive) -> AsyncIterator[None]:
    """Cancels what is left at the end; and at once if the client leaves, which ends what is within."""
    task, gone = asyncio.current_task(), False
    assert task

    async def watch() -> None:
      nonlocal gone
      while (await receive())["type"] != "http.disconnect":
        pass
      gone = True
      self.cancel()
      task.cancel()

    watching = asyncio.create_task(watch())
    try:
      yield
    except asyncio.CancelledError:
      if not gone:
        raise
      task.uncancel()
      raise ConnectionResetError from None
    finally:
      watching.cancel()
      self.cancel()


class _Whole:
  """An answer that is sent once all of it is there."""

  def __init__(self, running: _Running, writer: Writer):
    self._running, self._writer = running, writer

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async with self._running.watched(receive):
      failed = None
      async for number, one in self._running.events():
        if isinstance(one, Failed):
          failed = one
        else:
          self._writer.choices[number].take(one)
    answer = responses.JSONResponse(failure(failed), 503) if failed else responses.JSONResponse(self._writer.whole())
    await answer(scope, receive, send)


class _Streamed:
  """An answer that is sent as it comes."""

  def __init__(self, running: _Running, writer: Writer):
    self._running, self._writer = running, writer

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    part = lambda body, more=True: send({"type": "http.response.body", "body": body, "more_body": more})
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"),
               (b"x-accel-buffering", b"no")]
    async with self._running.watched(receive):
      await send({"type": "http.response.start", "status": 200, "headers": headers})
      async for number, one in self._running.events():
        if isinstance(one, Failed):  # Never a silent end.
          await part(event(failure(one)))
          break
        if chunk := self._writer.chunk(self._writer.choices[number].take(one)):
          await part(chunk)
      else:
        for last in self._writer.last():
          await part(last)
      await part(b"", False)


def _described(model: Served) -> dict[str, Any]:
  return {"id": model.name, "object": "model", "created": model.created, "owned_by": "gpt4x"}


def _hash(part: str) -> str:
  return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"


async def _other(_: requests.Request, error: Exception) -> Any:
  """The errors of routes that are not there, and of methods that they have not."""
  assert isinstance(error, HTTPException)
  return refusal(Refused({404: "there is no such path", 405: "the path has no such method"}.get(
      error.status_code, "the request cannot be answered"), status=error.status_code))


async def _broken(_: requests.Request, __: Exception) -> Any:
  return refusal(Refused("something went wrong: see the server's log", status=500, kind="server_error"))
