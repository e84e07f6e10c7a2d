"""The end of a server: no new requests, and a time for those that run."""

import asyncio
import contextlib
from typing import Protocol

_SECONDS_FOR_ERRORS = 5.0


class Stoppable(Protocol):

  def fail(self, message: str) -> None:
    """Ends it with an error."""


class Lifecycle:
  """Who is being worked on. Used on the event loop's thread alone."""

  def __init__(self) -> None:
    self.draining = False
    self.requests = 0  # Those that are worked on, but for probes.
    self.running: set[Stoppable] = set()
    self._empty = asyncio.Event()
    self._empty.set()

  def enter(self) -> None:
    self.requests += 1
    self._empty.clear()

  def leave(self) -> None:
    self.requests -= 1
    if not self.requests:
      self._empty.set()

  async def drain(self, grace: float) -> None:
    """From now on new requests are refused; waits for the others, and after `grace` seconds ends them with an error."""
    self.draining = True
    try:
      await asyncio.wait_for(self._empty.wait(), grace)
    except TimeoutError:
      for one in list(self.running):
        one.fail("the server is shutting down")
      with contextlib.suppress(TimeoutError):  # They have only their error to write.
        await asyncio.wait_for(self._empty.wait(), _SECONDS_FOR_ERRORS)
