"""What the server says of itself."""

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served
from gpt4x.serving.metrics import CONTENT_TYPE


async def models(_: HttpRequest, context: Context) -> Response:
  return JSONResponse({"object": "list", "data": [_described(one) for one in context.models.values()]})


async def model(http: HttpRequest, context: Context) -> Response:
  return JSONResponse(_described(context.named(http.path_params["model"])))


def _described(one: Served) -> dict[str, Any]:
  return {"id": one.name, "object": "model", "created": one.created, "owned_by": "gpt4x"}


async def health(_: HttpRequest, __: Context) -> Response:
  """The process answers."""
  return JSONResponse({"status": "ok"})


async def ready(_: HttpRequest, context: Context) -> Response:
  """Requests are taken; not while models are compiled, nor from SIGTERM on."""
  found = context.ready()
  return JSONResponse({"status": "ready" if found else "not ready"}, 200 if found else 503)


async def metrics(_: HttpRequest, context: Context) -> Response:
  return Response(context.metrics.text(), media_type=None, headers={"content-type": CONTENT_TYPE})
