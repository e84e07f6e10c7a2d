"""Work that takes the whole machine, one request after the other."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from gpt4x.serving.problems import busy


class Turns:
  """One request at a time has its turn, in a thread, while the loop goes on; only so many wait for theirs."""

  def __init__(self, what: str):
    """`what` is what the requests have or ask for, in the message to those that are refused."""
    self._what, self._turn, self._waiting = what, anyio.CapacityLimiter(1), 0

  async def run(self, most: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives; a Problem, 429, if `most` have their turn or wait for it."""
    if self._waiting >= most:
      raise busy(f"too many requests {self._what} wait: try again later", 1)
    self._waiting += 1
    try:
      return await anyio.to_thread.run_sync(function, *arguments, limiter=self._turn)
    finally:
      self._waiting -= 1
