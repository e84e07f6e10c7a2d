"""`POST /v1/embeddings`: texts as vectors."""

import asyncio
import base64
from typing import Any

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gpt4x.errors import UserError
from gpt4x.serving import answers, asking, fields
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served
from gpt4x.serving.problems import Problem, wrong
from gpt4x.serving.turns import Turns


class Embeddings:
  """The route."""

  def __init__(self) -> None:
    self._turns = Turns("for embeddings")

  async def route(self, http: HttpRequest, context: Context) -> Response:
    body = await http.body()
    model, ids, encoding = await asyncio.to_thread(_asked, body, context)
    found = await self._turns.run(context.settings.max_waiting_embeddings, model.embed, ids)
    vectors = np.asarray(found, np.float32)
    if not np.isfinite(vectors).all():
      raise Problem(500, "the model's states are not finite", code="generation_failed")
    used = sum(map(len, ids))
    answers.account(http.scope).set(used, 0)
    data = [{"object": "embedding", "index": index, "embedding": _written(vector, encoding)}
            for index, vector in enumerate(vectors)]
    return JSONResponse({"object": "list", "data": data, "model": model.name,
                         "usage": {"prompt_tokens": used, "total_tokens": used}})


def _written(vector: np.ndarray, encoding: str) -> Any:
  """Numbers, or base64 of float32, the least byte first."""
  return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _asked(body: bytes, context: Context) -> tuple[Served, list[tuple[int, ...]], str]:
  given, settings = fields.read(body, context.settings.max_depth), context.settings
  model = context.model(given)
  value, encoding = given.take("input"), given.text("encoding_format", "float")
  if encoding not in ("float", "base64"):
    raise wrong("encoding_format must be float or base64", "encoding_format")
  given.neutral({"user": lambda value: isinstance(value, str), "dimensions": lambda _: False})
  given.finish()
  texts = _inputs(value, model, settings.max_inputs)
  ids = [_encoded(one, model) for one in texts]
  for one in ids:
    asking.check_length(one, "input", settings)
  if sum(map(len, ids)) > settings.max_prompt:
    raise wrong(f"input has more than {settings.max_prompt} tokens in all", "input", "context_length_exceeded")
  return model, ids, encoding


def _inputs(value: Any, model: Served, most: int) -> list[Any]:
  if isinstance(value, str):
    return [value]
  if not isinstance(value, list) or not value:
    raise wrong("input must be a text, texts, ids, or lists of ids", "input")
  if (ids := asking.ids_of(value, "input", model)) is not None:
    return [ids]
  if len(value) > most:
    raise wrong(f"input has more than {most} texts", "input")
  return [one if isinstance(one, str) else asking.ids_of(one, "input", model) for one in value]


def _encoded(one: Any, model: Served) -> tuple[int, ...]:
  try:
    ids = tuple(model.encode(one)) if isinstance(one, str) else one
  except UserError as error:
    raise wrong(str(error), "input") from None
  if not ids:  # None of them, or of another kind.
    raise wrong("each input must be a text or a list of ids, and none may be empty", "input")
  return ids
