"""Asks an application without a network, and a server over loopback."""

import asyncio
from collections.abc import Iterator
import contextlib
import dataclasses
import http.client
import json
import threading
from typing import Any

from gpt4x.serving.app import App, build
from gpt4x.serving.server import Server
from gpt4x.serving.settings import Settings
from tests.serving.fake import Fake, SECONDS

JSON = {"content-type": "application/json", "host": "localhost"}


@dataclasses.dataclass
class Answer:
  status: int
  headers: dict[str, str]
  body: bytes

  @property
  def json(self) -> Any:
    return json.loads(self.body)

  @property
  def error(self) -> dict[str, Any]:
    """The error, which has all of its fields."""
    assert self.status >= 400 and set(self.json) == {"error"}, self
    assert set(self.json["error"]) == {"message", "type", "param", "code"} and self.json["error"]["message"]
    return self.json["error"]

  @property
  def events(self) -> list[Any]:
    """What a stream holds, which is ended by [DONE]."""
    assert self.headers["content-type"].startswith("text/event-stream"), self
    *events, last, rest = self.body.decode().split("\n\n")
    assert last == "data: [DONE]" and rest == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def ask(app: App, method: str, path: str, body: Any = None, headers: Any = JSON, *, parts: Any = None,
              leave: asyncio.Event | None = None) -> Answer:
  """One request. `parts` are those of a body that comes in several; at `leave` the client goes."""
  data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
  pending = [{"type": "http.request", "body": part, "more_body": True} for part in parts or ()]
  pending.append({"type": "http.request", "body": data, "more_body": False})
  sent: list[dict[str, Any]] = []

  async def receive() -> dict[str, Any]:
    if pending:
      return pending.pop(0)
    await (leave or asyncio.Event()).wait()
    return {"type": "http.disconnect"}

  async def send(message: dict[str, Any]) -> None:
    sent.append(message)
  pairs = headers.items() if isinstance(headers, dict) else headers
  scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
           "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("x", 1),
           "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs], "state": {}}
  await asyncio.wait_for(app(scope, receive, send), SECONDS)
  if not sent:
    return Answer(0, {}, b"")
  assert sent[0]["type"] == "http.response.start" and not sent[-1].get("more_body")
  return Answer(sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]},
                b"".join(message["body"] for message in sent[1:]))


def silent(_: str) -> None:
  """A log that is not kept."""


def app_of(*models: Fake, log: Any = silent, **settings: Any) -> App:
  return build({model.name: model for model in models}, Settings(**settings), log)


def post(app: App, path: str, body: Any, headers: Any = JSON, **how: Any) -> Answer:
  return asyncio.run(ask(app, "POST", path, body, headers, **how))


def get(app: App, path: str, headers: Any = JSON, method: str = "GET") -> Answer:
  return asyncio.run(ask(app, method, path, None, headers))


@contextlib.contextmanager
def serving(app: App) -> Iterator[tuple[Server, int]]:
  """A server on a port of loopback, which must end when it is told to."""
  server, started, port = Server(app, "127.0.0.1", 0), threading.Event(), 0
  def tell(_: str, found: int) -> None:
    nonlocal port
    port = found
    started.set()
  thread = threading.Thread(target=server.run_until_ended, args=[tell], daemon=True)
  thread.start()
  assert started.wait(SECONDS)
  try:
    yield server, port
  finally:
    server.end()
    thread.join(SECONDS)
    assert not thread.is_alive()


def connect(port: int) -> http.client.HTTPConnection:
  return http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
