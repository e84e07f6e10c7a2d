"""`POST /v1/embeddings`: texts as vectors."""

import base64
from typing import Any

import anyio.to_thread
import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from gpt4x.serving import asking
from gpt4x.serving.account import Account
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served
from gpt4x.serving.fields import Fields
from gpt4x.serving.leaving import while_there
from gpt4x.serving.problems import Problem, wrong
from gpt4x.serving.settings import Settings
from gpt4x.serving.turns import Turns

_EACH = "a text or a list of ids, and none may be empty"


class Embeddings:
  """The route."""

  def __init__(self) -> None:
    self._turns = Turns("for embeddings")

  async def route(self, http: HttpRequest, context: Context) -> Response:
    model, ids, encoding = await asking.received(http, context, _asked)
    async with while_there(http.receive), self._turns.turn(context.settings.max_waiting_embeddings):
      found = [await anyio.to_thread.run_sync(model.embed, [one]) for one in ids]
    vectors = np.concatenate(found, dtype=np.float32)
    if not np.isfinite(vectors).all():
      raise Problem(500, "the model's states are not finite", code="generation_failed")
    used = sum(map(len, ids))
    Account.of(http.scope).set(used, 0)
    data = [{"object": "embedding", "index": index, "embedding": _written(vector, encoding)}
            for index, vector in enumerate(vectors)]
    return JSONResponse({"object": "list", "data": data, "model": model.name,
                         "usage": {"prompt_tokens": used, "total_tokens": used}})


def _written(vector: np.ndarray, encoding: str) -> Any:
  """Numbers, or base64 of float32, the least byte first."""
  return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _asked(given: Fields, model: Served, settings: Settings) -> tuple[Served, list[tuple[int, ...]], str]:
  value, encoding = given.take("input"), given.text("encoding_format", "float")
  if encoding not in ("float", "base64"):
    raise wrong("encoding_format must be float or base64", "encoding_format")
  given.finish({"user": lambda value: isinstance(value, str), "dimensions": lambda _: False})
  texts = asking.texts(value, "input", model, settings.max_inputs, _EACH, "texts")
  ids = [asking.encoded(one, "input", model, settings) for one in texts]
  if not all(ids):
    raise wrong(f"each input must be {_EACH}", "input")
  if sum(map(len, ids)) > settings.max_prompt:
    raise wrong(f"input has more than {settings.max_prompt} tokens in all", "input", "context_length_exceeded")
  return model, ids, encoding
