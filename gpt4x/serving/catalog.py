"""`GET /v1/models`: what is served."""

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served


async def every(_: HttpRequest, context: Context) -> Response:
  return JSONResponse({"object": "list", "data": [_described(model) for model in context.models.values()]})


async def one(http: HttpRequest, context: Context) -> Response:
  return JSONResponse(_described(context.named(http.path_params["model"])))


def _described(model: Served) -> dict[str, Any]:
  return {"id": model.name, "object": "model", "created": model.created, "owned_by": "gpt4x"}
