"""uvicorn around the application, with an orderly end."""

import asyncio
from collections.abc import Callable, Iterator
import contextlib
import signal
import socket
from types import FrameType

import uvicorn

from gpt4x.errors import UserError
from gpt4x.serving.app import App
from gpt4x.serving.connections import protocol


class Server(uvicorn.Server):
  """Ends with status 0: at the first SIGTERM or SIGINT after what runs, at the second at once."""

  def __init__(self, app: App, host: str, port: int):
    settings = app.context.settings
    super().__init__(uvicorn.Config(
        app, host, port, http=protocol(settings), ws="none", lifespan="off", log_config=None, log_level="error",
        access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=max(1, round(settings.header_seconds)), timeout_graceful_shutdown=2, backlog=1024,
        h11_max_incomplete_event_size=settings.max_headers))
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
