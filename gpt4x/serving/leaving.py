"""Clients that leave before they are answered."""

from starlette.types import Receive


class Left(Exception):
  """The client has gone: there is nobody to answer."""


async def left(receive: Receive) -> None:
  """Waits until the client leaves. The request's body must have been received."""
  while (await receive())["type"] != "http.disconnect":
    pass
