"""The application: routes, with the gate before them."""

from collections.abc import Callable, Mapping
import sys
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from gpt4x.serving import catalog, chat, completions, page
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served
from gpt4x.serving.embeddings import Embeddings
from gpt4x.serving.lifecycle import Lifecycle
from gpt4x.serving.limits import Gate
from gpt4x.serving.metrics import CONTENT_TYPE, Metrics
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
        at("/v1/embeddings", "POST", Embeddings().route), at("/v1/models", "GET", catalog.every),
        at("/v1/models/{model:path}", "GET", catalog.one), at("/metrics", "GET", _metrics),
        at("/health", "GET", _health), at("/ready", "GET", _ready), at("/", "GET", page.route)]
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


async def _health(_: HttpRequest, __: Context) -> Response:
  """The process answers."""
  return JSONResponse({"status": "ok"})


async def _ready(_: HttpRequest, context: Context) -> Response:
  """Requests are taken; not while models are compiled, nor from SIGTERM on."""
  ready = context.ready()
  return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


async def _metrics(_: HttpRequest, context: Context) -> Response:
  return Response(context.metrics.text(), media_type=None, headers={"content-type": CONTENT_TYPE})
