"""Clients that leave before they are answered."""

import asyncio
from collections.abc import AsyncIterator
import contextlib

import anyio
from starlette.types import Receive


class Left(Exception):
  """The client has gone: there is nobody to answer."""


async def left(receive: Receive) -> None:
  """Waits until the client leaves. The request's body must have been received."""
  while (await receive())["type"] != "http.disconnect":
    pass


@contextlib.asynccontextmanager
async def while_there(receive: Receive) -> AsyncIterator[None]:
  """What is within ends where the client leaves, after a thread's work that it waits for, if any; then raises Left."""
  with anyio.CancelScope() as scope:
    async def watch() -> None:
      await left(receive)
      scope.cancel()
    watching = asyncio.create_task(watch())
    try:
      yield
    finally:
      watching.cancel()
  if scope.cancelled_caught:
    raise Left
