"""Work that takes the whole machine, one request after the other."""

from collections.abc import AsyncIterator
import contextlib

import anyio

from gpt4x.serving.problems import busy


class Turns:
  """One request at a time has its turn, and only so many wait for theirs."""

  def __init__(self, what: str):
    """`what` is what the requests have or ask for, in the message to those that are refused."""
    self._what, self._turn, self._waiting = what, anyio.CapacityLimiter(1), 0

  @contextlib.asynccontextmanager
  async def turn(self, most: int) -> AsyncIterator[None]:
    """Within it, it is this request's turn; a Problem, 429, if `most` have theirs or wait for it."""
    if self._waiting >= most:
      raise busy(f"too many requests {self._what} wait: try again later", 1)
    self._waiting += 1
    try:
      async with self._turn:
        yield
    finally:
      self._waiting -= 1
