"""The gate before every route, which refuses all that is not allowed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
import hashlib
import hmac
import re
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt4x.serving.account import Account
from gpt4x.serving.context import Context
from gpt4x.serving.leaving import Left
from gpt4x.serving.problems import busy, Problem
from gpt4x.serving.settings import Settings

PROBES = ("/health", "/ready")  # Asked for by address, without a key, at any time.
OPEN = (*PROBES, "/")  # The page is the same for all, and a browser has no key to bring until it is there.
_WHILE_DRAINING = (*PROBES, "/metrics")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/@\[\]]+))(?::\d{1,5})?")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_STREAM_FAILED = 599  # In the log and the metrics: sent as 200, and ended with an error.
_SAFE = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
}

Log = Callable[[str], None]


class Gate:
  """An ASGI application around the routes. Its answers to what it refuses are as OpenAI's errors.

  It logs a line for each request: method, route, status, seconds, tokens; no path, address, key or prompt.
  """

  def __init__(self, app: ASGIApp, routes: Sequence[Route], context: Context, log: Log):
    self._app, self.routes, self._context, self._log = app, routes, context, log
    self._keys = [hashlib.sha256(key).digest() for key in context.settings.keys]

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
      await send({"type": "websocket.close", "code": 1008})
    if scope["type"] != "http":
      return
    started, sent = time.monotonic(), _Sent(send)
    account = Account.of(scope)
    route = self._template(scope)
    try:
      await self._answer(scope, route, receive, sent)
    except Left:
      sent.status = sent.status or 499
    except Exception as error:  # pylint: disable=broad-exception-caught
      await self._fail(error, scope, receive, sent)
    finally:
      self._note(scope, route, account, sent.status or 499, time.monotonic() - started)

  def _template(self, scope: Scope) -> str:
    """The route as it is written, which no request has a part in."""
    return next((one.path for one in self.routes if one.matches(scope)[0] != Match.NONE), "unknown")

  def _note(self, scope: Scope, route: str, account: Account, status: int, seconds: float) -> None:
    status = _STREAM_FAILED if account.failed else status
    self._context.metrics.request(route, status, seconds)
    method = scope["method"] if scope["method"] in _METHODS else "?"
    self._log(f"{method} {route} {status} {seconds:.3f}s {account.prompt_tokens}+{account.completion_tokens} tokens")

  async def _fail(self, error: Exception, scope: Scope, receive: Receive, sent: "_Sent") -> None:
    if isinstance(error, HTTPException):
      error = Problem(error.status_code, {404: "there is no such route", 405: "the route has no such method"}.get(
          error.status_code, "the request was refused"), headers=error.headers)
    if not isinstance(error, Problem):
      self._context.log_defect(error)
      error = Problem(500, "the server failed")
    if not sent.status:
      await JSONResponse(error.body(), error.status, error.headers)(scope, receive, sent)

  async def _answer(self, scope: Scope, route: str, receive: Receive, sent: "_Sent") -> None:
    settings, lifecycle = self._context.settings, self._context.lifecycle
    headers = _headers(scope, settings)
    if route not in PROBES:
      _check_host(headers, settings.hosts)
      _check_origin(headers)
      if route not in OPEN:
        self._check_key(headers)
    _check_lengths(scope["method"], headers, settings)
    if route in PROBES:
      await self._app(scope, receive, sent)
      return
    if lifecycle.draining and route not in _WHILE_DRAINING:
      raise busy("the server is shutting down", 5, 503)
    if lifecycle.requests >= settings.max_requests:
      raise busy("too many requests are being worked on: try again later", 1)
    lifecycle.enter()
    try:
      await self._app(scope, await _with_body(scope, receive, settings), sent)
    finally:
      lifecycle.leave()

  def _check_key(self, headers: Mapping[bytes, list[bytes]]) -> None:
    """Compares with every key, each in the same time whatever is given."""
    if not self._keys:
      return
    given = headers.get(b"authorization", [])
    scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    digest = hashlib.sha256(key.strip()).digest()
    found = sum([hmac.compare_digest(digest, known) for known in self._keys])
    if not found or scheme.lower() != b"bearer":
      raise Problem(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key",
                    headers={"www-authenticate": "Bearer", "connection": "close"})


class _Sent:
  """`send`, which remembers the status and adds headers that every answer has."""

  def __init__(self, send: Send):
    self._send, self.status = send, 0

  async def __call__(self, message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.response.start":
      self.status = message["status"]
      own = {name for name, _ in message["headers"]}
      more = [(name.encode(), value.encode()) for name, value in _SAFE.items() if name.encode() not in own]
      message = {**message, "headers": [*message["headers"], *more]}
    await self._send(message)


def _headers(scope: Scope, settings: Settings) -> dict[bytes, list[bytes]]:
  """All values of each header, by its name in lower case."""
  length = sum(len(name) + len(value) for name, value in scope["headers"])
  length += len(scope["method"]) + len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
  if len(scope["headers"]) > settings.max_header_count or length > settings.max_headers:
    raise _last(431, "the request's headers are too many or too long")
  found: dict[bytes, list[bytes]] = {}
  for name, value in scope["headers"]:
    found.setdefault(name.lower(), []).append(value)
  return found


def _last(status: int, message: str) -> Problem:
  """A refusal after which the connection is of no use, for what was not read is still to come on it."""
  return Problem(status, message, headers={"connection": "close"})


def _check_host(headers: Mapping[bytes, list[bytes]], allowed: frozenset[str]) -> None:
  """A page of another site cannot ask in its own name, even if that leads to this address (DNS rebinding)."""
  given = headers.get(b"host", [])
  found = _HOST.fullmatch(given[0].decode("latin-1").lower()) if len(given) == 1 else None
  if "*" not in allowed and (found is None or (found[1] or found[2]).rstrip(".") not in allowed):
    raise _last(421, "this name is not served here: start the server with --allowed_host=NAME")


def _check_origin(headers: Mapping[bytes, list[bytes]]) -> None:
  """Browsers say for which site they ask: this server's own page alone may."""
  host = headers.get(b"host", [b""])[0].lower()
  for origin in headers.get(b"origin", []):
    if origin.lower() not in (b"http://" + host, b"https://" + host):
      raise _last(403, "requests of other sites' pages are refused")
  for site in headers.get(b"sec-fetch-site", []):
    if site not in (b"same-origin", b"none"):
      raise _last(403, "requests of other sites' pages are refused")


def _check_lengths(method: str, headers: Mapping[bytes, list[bytes]], settings: Settings) -> None:
  """Refuses a body for its announced length, and any where there is to be none."""
  lengths = headers.get(b"content-length", [])
  if any(not (one.isdigit() and len(one) < 20) for one in lengths):
    raise _last(400, "content-length is not a number")
  if any(int(one) > settings.max_body for one in lengths):
    raise _last(413, f"the body is longer than {settings.max_body} bytes")
  if method != "POST" and (any(int(one) for one in lengths) or b"transfer-encoding" in headers):
    raise _last(400, f"no body is read with {method if method in _METHODS else 'this method'}")
  if method == "POST":
    kinds = headers.get(b"content-type", [])
    # Also keeps out forms of other sites, which browsers send without asking.
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != b"application/json":
      raise _last(415, "content-type must be application/json")
    if headers.get(b"content-encoding", [b"identity"]) != [b"identity"]:
      raise _last(415, "content-encoding must be identity")


async def _with_body(scope: Scope, receive: Receive, settings: Settings) -> Receive:
  """Reads the body, as far as the limits go, and gives what receives it at once, and then what else comes."""
  body = b""
  if scope["method"] == "POST":
    try:
      async with asyncio.timeout(settings.body_seconds):
        body = await _body(receive, settings.max_body)
    except TimeoutError:
      raise _last(408, f"the body did not come within {settings.body_seconds:g} seconds") from None
  first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

  def again() -> Awaitable[Message]:
    return _at_once(first.pop()) if first else receive()
  return again


async def _at_once(message: Message) -> Message:
  return message


async def _body(receive: Receive, most: int) -> bytes:
  parts, length = [], 0
  while True:
    message = await receive()
    if message["type"] == "http.disconnect":
      raise Left
    parts.append(message.get("body", b""))
    length += len(parts[-1])
    if length > most:
      raise _last(413, f"the body is longer than {most} bytes")
    if not message.get("more_body", False):
      return b"".join(parts)
