"""Work that takes the whole machine, one request after the other."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.types import Receive

from gpt4x.serving.leaving import Left, left
from gpt4x.serving.problems import busy

T = TypeVar("T")


class Turns:
  """One request at a time has its turn, in threads, while the loop goes on; only so many wait for theirs."""

  def __init__(self, what: str):
    """`what` the requests have or ask for, in the words to those that are refused."""
    self._what, self._turn, self._waiting = what, anyio.CapacityLimiter(1), 0

  async def run(self, pieces: Sequence[Callable[[], T]], receive: Receive, most: int) -> list[T]:
    """What each piece of a request's work gives, one after the other.

    Raises a Problem if `most` requests have their turn or wait for it; Left, after the piece that is at work, if the
    client leaves.
    """
    if self._waiting >= most:
      raise busy(f"too many requests {self._what} wait: try again later", 1)
    self._waiting += 1
    try:
      return await self._done(pieces, receive)
    finally:
      self._waiting -= 1

  async def _done(self, pieces: Sequence[Callable[[], T]], receive: Receive) -> list[T]:
    with anyio.CancelScope() as scope:
      async def watch() -> None:
        await left(receive)
        scope.cancel()
      watching = asyncio.create_task(watch())
      try:
        async with self._turn:
          return [await anyio.to_thread.run_sync(piece) for piece in pieces]
      finally:
        watching.cancel()
    raise Left
