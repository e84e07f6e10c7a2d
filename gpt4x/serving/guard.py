"""What stands before all routes: nothing is let through that is not allowed."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
import dataclasses
import hmac
import json
import logging
import time
from typing import Any
from urllib import parse

from gpt4x.serving.fields import Refused

_LOG = logging.getLogger("gpt4x.access")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Rules:
  """Who may ask what.

  Attributes:
    keys: one of which a request must have; none: nobody needs one.
    hosts: names that the server is called by; others come from pages that had their own name point here.
    open_paths: what needs no key.
    paths: those that are named in the log and in metrics.
    max_body: bytes of a request.
    body_seconds: in which a request's body must have come.
    send_seconds: in which a client must take what is sent.
  """

  keys: Collection[str] = ()
  hosts: Collection[str] = ("localhost", "127.0.0.1", "[::1]")
  open_paths: Collection[str] = ("/", "/health", "/ready")
  paths: Collection[str] = ()
  max_body: int = 4 << 20
  body_seconds: float = 30.0
  send_seconds: float = 30.0


class Guard:
  """An ASGI application around another: keys, hosts, origins, sizes and times; what passes has its whole body."""

  def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: Rules,
               count: Callable[[str, int], None]):
    """Takes the application, the rules, and what counts answers by path and status."""
    self._app, self._rules, self._count = app, rules, count
    self._keys = [key.encode() for key in rules.keys]

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
    elif scope["type"] == "http":
      await self._answer(scope, receive, send)
    else:  # There are no sockets here.
      await send({"type": "websocket.close", "code": 1008})

  async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
    started, status = time.monotonic(), 500
    path = scope["path"] if scope["path"] in self._rules.paths else "other"

    async def sent(message: MutableMapping[str, Any]) -> None:
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
      try:
        await asyncio.wait_for(send(message), self._rules.send_seconds)
      except TimeoutError:  # Who never reads holds nothing.
        raise ConnectionAbortedError from None

    try:
      try:
        self._check(scope)
        body = await self._body(scope, receive)
      except Refused as refused:
        await refusal(refused)(scope, receive, sent)
        return
      await self._app(scope, _replayed(body, receive), sent)
    except ConnectionError:
      status = 499  # Nobody is there any more.
    finally:
      self._count(path, status)
      _LOG.info("%s %s %d %.3f s", scope["method"] if scope["method"] in ("GET", "POST") else "other", path, status,
                time.monotonic() - started)

  def _check(self, scope: Scope) -> None:
    headers = scope["headers"]
    values = lambda name: [value.decode("latin-1") for key, value in headers if key == name]
    hosts = values(b"host")
    if len(hosts) != 1 or _name(hosts[0]) not in self._rules.hosts:
      raise Refused("this server is not known by that name: start it with --allowed_host", status=403,
                    code="host_not_allowed")
    origins = values(b"origin")
    if any(parse.urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins) or any(
        site not in ("same-origin", "none") for site in values(b"sec-fetch-site")):
      raise Refused("requests from other pages are not answered", status=403, code="origin_not_allowed")
    if self._keys and scope["path"] not in self._rules.open_paths and not self._has_key(values(b"authorization")):
      raise Refused("a key is needed: Authorization: Bearer KEY", status=401, code="invalid_api_key",
                    kind="authentication_error")

  def _has_key(self, values: list[str]) -> bool:
    given = values[0].removeprefix("Bearer ").encode("latin-1") if len(values) == 1 and values[0].startswith(
        "Bearer ") else b""
    return sum(hmac.compare_digest(given, key) for key in self._keys) > 0  # All are compared, whichever it is.

  async def _body(self, scope: Scope, receive: Receive) -> bytes:
    """The body, of which no more is read than may be."""
    too_large = Refused(f"the body has more than {self._rules.max_body:,} bytes", status=413, code="body_too_large")
    for name, value in scope["headers"]:
      if name == b"content-length" and (not value.isdigit() or int(value) > self._rules.max_body):
        raise too_large
    body = bytearray()

    async def read() -> None:
      while True:
        message = await receive()
        if message["type"] == "http.disconnect":
          raise ConnectionResetError
        body.extend(message.get("body", b""))
        if len(body) > self._rules.max_body:
          raise too_large
        if not message.get("more_body"):
          return

    try:
      await asyncio.wait_for(read(), self._rules.body_seconds)
    except TimeoutError:
      raise Refused(f"the body did not come within {self._rules.body_seconds:g} s", status=408,
                    code="body_too_slow") from None
    return bytes(body)


def refusal(refused: Refused) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
  """The answer to a request that is refused."""
  body = json.dumps({"error": refused.error}).encode()
  headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
  if refused.retry_after is not None:
    headers.append((b"retry-after", f"{max(1, round(refused.retry_after))}".encode()))
  if refused.status == 401:
    headers.append((b"www-authenticate", b"Bearer"))
  if refused.status in (408, 413):
    headers.append((b"connection", b"close"))  # What is left of the body is not read.

  async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

  return answer


def _name(host: str) -> str:
  """The name in a Host header, without the port."""
  name, colon, port = host.rpartition(":")
  return (name if colon and port.isdigit() else host).lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
  """Gives the body that was read, and then what comes."""
  given = False

  async def again() -> MutableMapping[str, Any]:
    nonlocal given
    if given:
      return await receive()
    given = True
    return {"type": "http.request", "body": body, "more_body": False}

  return again
