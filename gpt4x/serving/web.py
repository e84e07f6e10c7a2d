"""Listening: one process, until it is told to stop."""

import asyncio
from collections.abc import Callable
import functools
import ipaddress
import logging
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt4x.serving.app import Server

MAX_HEADER = 16 << 10  # Bytes of a request's line and headers.


class Protocol(H11Protocol):
  """HTTP/1.1, where a client has so many seconds from its first byte, or from none, to the end of its headers."""

  header_seconds = 10.0
  _waiting: asyncio.TimerHandle | None = None

  def connection_made(self, transport):
    super().connection_made(transport)
    self._wait()

  def data_received(self, data):
    super().data_received(data)
    self._wait()

  def on_response_complete(self):
    super().on_response_complete()
    self._wait()

  def connection_lost(self, exc):
    self._stop_waiting()
    super().connection_lost(exc)

  def _wait(self) -> None:
    """Watches the time while no request is being answered."""
    if self.cycle is not None and not self.cycle.response_complete:
      self._stop_waiting()
    elif self._waiting is None:
      self._waiting = self.loop.call_later(self.header_seconds, self.transport.abort)

  def _stop_waiting(self) -> None:
    if self._waiting is not None:
      self._waiting.cancel()
      self._waiting = None


class Listening(uvicorn.Server):
  """Once it is told to stop it takes no requests more, and ends when those under way have ended, or are ended."""

  def __init__(self, config: uvicorn.Config, server: Server, grace: float, stop: Callable[[], None]):
    super().__init__(config)
    self._answers, self._grace, self._stop = server, grace, stop

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    if self._answers.stopping:  # Twice: now.
      self.force_exit = self.should_exit = True
      return
    self._answers.stopping = True
    self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._drain()))

  async def startup(self, sockets=None) -> None:
    self._loop = asyncio.get_running_loop()
    await super().startup(sockets)

  async def _drain(self) -> None:
    ends = self._loop.time() + self._grace
    while self._answers.answering and self._loop.time() < ends:
      await asyncio.sleep(0.05)
    await asyncio.to_thread(self._stop)  # Those that are left hear that they failed.
    self.should_exit = True


def listen(server: Server, host: str, port: int, grace: float = 30.0, connections: int = 512,
           stop: Callable[[], None] = lambda: None, header_seconds: float = 10.0) -> None:
  """Serves until SIGTERM or SIGINT.

  Args:
    server: the application.
    host, port: to listen on.
    grace: seconds in which requests under way may end after the signal.
    connections: at a time; more get the status 503.
    stop: ends what is under way.
    header_seconds: in which the headers of a request must have come.
  """
  protocol = type("_Protocol", (Protocol, ), {"header_seconds": header_seconds})
  config = uvicorn.Config(
      server.app, host=host, port=port, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
      server_header=False, date_header=False, proxy_headers=False, limit_concurrency=connections,
      h11_max_incomplete_event_size=MAX_HEADER, timeout_keep_alive=10, timeout_graceful_shutdown=5)
  logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
  Listening(config, server, grace, stop).run()


@functools.cache
def is_loopback(host: str) -> bool:
  """Whether only this machine can reach an address."""
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return False
