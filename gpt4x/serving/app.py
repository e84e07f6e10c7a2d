"""The application: routes, with the gate before them."""

from collections.abc import Callable, Mapping
import sys
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router

from gpt4x.serving import chat, completions, page, status
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served
from gpt4x.serving.embeddings import Embeddings
from gpt4x.serving.lifecycle import Lifecycle
from gpt4x.serving.limits import Gate
from gpt4x.serving.metrics import Metrics
from gpt4x.serving.settings import Settings


def to_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def build(models: Mapping[str, Served], settings: Settings, log: Callable[[str], None] = to_stderr) -> "App":
  """An ASGI application that serves models by their names; `log` gets a line for each request."""
  return App(Context(dict(models), settings, Lifecycle(), Metrics(models)), log)


class App(Gate):
  """The gate, and what the server behind it has to know."""

  def __init__(self, context: Context, log: Callable[[str], None]):
    at = lambda path, method, endpoint: Route(path, _bound(endpoint, context), methods=[method])
    routes = [
        at("/v1/completions", "POST", completions.route), at("/v1/chat/completions", "POST", chat.route),
        at("/v1/embeddings", "POST", Embeddings().route), at("/v1/models", "GET", status.models),
        at("/v1/models/{model:path}", "GET", status.model), at("/metrics", "GET", status.metrics),
        at("/health", "GET", status.health), at("/ready", "GET", status.ready), at("/", "GET", page.route)]
    router = Router(routes, redirect_slashes=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
      scope["app"] = router  # So that it raises what the gate answers, instead of its own answers of plain text.
      await router(scope, receive, send)
    super().__init__(app, routes, context, log)
    self.context = context


def _bound(endpoint: Callable[..., Any], context: Context) -> Callable[..., Any]:
  async def bound(http: HttpRequest) -> Response:
    return await endpoint(http, context)
  return bound
