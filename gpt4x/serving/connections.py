"""Connections that end where headers do not come, or where nobody reads."""

import asyncio
import http
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt4x.serving.problems import busy, Problem, wrong
from gpt4x.serving.settings import Settings


def protocol(settings: Settings) -> type[H11Protocol]:
  """What uvicorn makes of each connection, which has no such limits of its own."""

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
