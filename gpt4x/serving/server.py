"""uvicorn around the application: time limits of connections, and an orderly end."""

import asyncio
from collections.abc import Callable, Iterator
import contextlib
import http
import json
import signal
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt4x.errors import UserError
from gpt4x.serving.app import App
from gpt4x.serving.problems import busy, Problem, wrong
from gpt4x.serving.settings import Settings


def protocol(settings: Settings) -> type[H11Protocol]:
  """Connections that end where headers do not come, or where nobody reads."""

  class Connection(H11Protocol):
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
      super().connection_made(transport)
      if len(self.connections) > settings.max_connections:
        transport.write(_answer(busy("too many connections are open: try again later", 1, 503)))
        transport.close()
        self._give_up_later()
      else:
        self._wait_for_headers()

    def _wait_for_headers(self) -> None:
      if self._deadline is None:
        self._deadline = self.loop.call_later(settings.header_seconds, self._late)

    def _late(self) -> None:
      self.transport.close()
      self._give_up_later()

    def _give_up_later(self) -> None:
      """What is closed still waits for a client that does not read."""
      self._stop("_stalled")
      self._stalled = self.loop.call_later(settings.send_seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
      if (timer := getattr(self, name)) is not None:
        timer.cancel()
        setattr(self, name, None)

    def handle_events(self) -> None:
      before = self.cycle
      super().handle_events()
      if self.cycle is not before:  # Headers are there. Bytes that are not yet a request put off nothing.
        self._stop("_deadline")

    def send_400_response(self, msg: str) -> None:
      """What came is no HTTP. uvicorn's own is of plain text, and fails where an answer has begun or ended."""
      working = self.cycle is not None and not self.cycle.response_complete
      if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not (working and self.cycle.response_started):
        self.transport.write(_answer(wrong("the request is no HTTP, or too long")))
        self._late()
      else:
        self.transport.abort()
      if working:
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
      self._stop("_deadline")
      self._wait_for_headers()
      if self.transport.is_closing():
        self._give_up_later()
      super().on_response_complete()

    def pause_writing(self) -> None:
      super().pause_writing()
      self._give_up_later()

    def resume_writing(self) -> None:
      super().resume_writing()
      if not self.transport.is_closing():
        self._stop("_stalled")

    def connection_lost(self, exc: Exception | None) -> None:
      self._stop("_deadline")
      self._stop("_stalled")
      super().connection_lost(exc)

  return Connection


def _answer(problem: Problem) -> bytes:
  """An error as bytes, where there is no request to answer; the connection ends with it."""
  body = json.dumps(problem.body()).encode()
  headers = {"content-type": "application/json", "content-length": len(body), "connection": "close", **problem.headers}
  lines = [f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}"]
  return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


class Server(uvicorn.Server):
  """Ends with status 0: at the first SIGTERM or SIGINT after what runs, at the second at once."""

  def __init__(self, app: App, host: str, port: int):
    settings = app.context.settings
    super().__init__(uvicorn.Config(
        app, host, port, http=protocol(settings), ws="none", lifespan="off", log_config=None, log_level="error",
        access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=max(1, round(settings.header_seconds)),
        h11_max_incomplete_event_size=settings.max_headers, timeout_graceful_shutdown=2, backlog=1024))
    self._app = app
    self._loop: asyncio.AbstractEventLoop | None = None
    self._drain: asyncio.Task[None] | None = None
    self._tell: Callable[[str, int], None] | None = None

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    self._loop = asyncio.get_running_loop()
    await super().startup(sockets)
    if self.started and self._tell:
      self._tell(*self.address())

  def run_until_ended(self, tell: Callable[[str, int], None]) -> None:
    """Serves until `end`, or a signal; `tell` is told where it listens. Raises UserError where it cannot."""
    self._tell = tell
    host, port = self.config.host, self.config.port
    try:
      family, kind, proto, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
      listening = socket.socket(family, kind, proto)
      listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listening.bind(where)
    except OSError as error:
      raise UserError(f"--host={host} --port={port}: {error.strerror}: choose others") from None
    with listening:
      self.run(sockets=[listening])

  def address(self) -> tuple[str, int]:
    """Where it listens, once it has started."""
    host, port, *_ = self.servers[0].sockets[0].getsockname()
    return host, port

  def end(self) -> None:
    """Begins the end, from any thread; a second time: at once."""
    if self._loop is None:
      self.should_exit = True
    else:
      self._loop.call_soon_threadsafe(self._end)

  def _end(self) -> None:
    if self._drain is not None:
      self.force_exit = self.should_exit = True
      return
    async def drain() -> None:
      await self._app.context.lifecycle.drain(self._app.context.settings.grace)
      self.should_exit = True
    self._drain = asyncio.get_running_loop().create_task(drain())

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    self.end()

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """uvicorn's own sends the signal once more at the end, which would be the exit status."""
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
      before = {one: signal.signal(one, self.handle_exit) for one in signals}
    except ValueError:  # Not the main thread, whose business signals are.
      before = {}
    try:
      yield
    finally:
      for one, handler in before.items():
        signal.signal(one, handler)
