"""`POST /v1/chat/completions`: the next message of a conversation."""

import asyncio
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

import anyio.to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gpt4x.serving import asking
from gpt4x.serving.answers import answer, log_prob, LOWEST
from gpt4x.serving.asking import Asked
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served, Token
from gpt4x.serving.fields import Fields
from gpt4x.serving.leaving import while_there
from gpt4x.serving.problems import wrong
from gpt4x.serving.settings import Settings

_DEFAULT_TOKENS = 1024
_ROLES = ("system", "developer", "user", "assistant")
_empty = lambda value: value == []
_NEUTRAL = asking.NEUTRAL | {
    "tools": _empty, "functions": _empty, "tool_choice": lambda value: value == "none",
    "function_call": lambda value: value == "none", "parallel_tool_calls": lambda value: isinstance(value, bool),
    "response_format": lambda value: value == {"type": "text"}, "modalities": lambda value: value == ["text"],
    "audio": lambda _: False, "prediction": lambda _: False, "web_search_options": lambda _: False,
    "reasoning_effort": lambda value: value == "none", "verbosity": lambda value: value == "medium",
}


async def route(http: HttpRequest, context: Context) -> Response:
  return await answer(http, context, _asked, _Chat, _encoded)


def _asked(given: Fields, model: Served, settings: Settings) -> Asked:
  """Reads a request, whose conversation is still to be encoded."""
  if model.chat_refusal is not None:
    raise wrong(model.chat_refusal, "model", "chat_not_supported")
  messages = _messages(given.take("messages"), settings.max_prompts * 8)
  asked = asking.asked(given, model, settings)
  max_tokens, top = _max_tokens(given, settings.max_tokens), _top(given)
  given.finish(_NEUTRAL)
  return dataclasses.replace(asked, max_tokens=max_tokens, top=top, messages=messages)


def _max_tokens(given: Fields, most: int) -> int:
  old, new = (given.optional_integer(name, 0, most) for name in ("max_tokens", "max_completion_tokens"))
  if None not in (old, new) and old != new:
    raise wrong("max_tokens and max_completion_tokens are two names of one number", "max_tokens")
  return next((one for one in (new, old) if one is not None), min(_DEFAULT_TOKENS, most))


def _top(given: Fields) -> int | None:
  wanted, top = given.flag("logprobs"), given.optional_integer("top_logprobs", 0, 20)
  if top and not wanted:
    raise wrong("top_logprobs is for logprobs: true", "top_logprobs")
  return (top or 0) if wanted else None


def _messages(value: Any, most: int) -> list[dict[str, Any]]:
  if not isinstance(value, list) or not 1 <= len(value) <= most:
    raise wrong(f"messages must be a list of 1 to {most} messages", "messages")
  return [_message(one, f"messages[{place}]") for place, one in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
  """A message with `role` and `content` alone."""
  if not isinstance(value, dict):
    raise wrong(f"{where} must be an object", "messages")
  given = Fields(value, f"{where}.")
  role, content = given.take("role"), given.take("content")
  if role not in _ROLES:
    raise wrong(f"{where}.role must be one of {', '.join(_ROLES)}", "messages")
  if isinstance(content, list):
    content = [_part(one, f"{where}.content[{place}]") for place, one in enumerate(content)]
  elif not isinstance(content, str):
    raise wrong(f"{where}.content must be a text or a list of parts", "messages")
  # What an answer of this server brings along when it becomes a part of the next request.
  given.finish({"name": lambda value: isinstance(value, str), "refusal": lambda _: False, "tool_calls": _empty,
                "annotations": _empty, "audio": lambda _: False, "function_call": lambda _: False})
  return {"role": role, "content": content}


def _part(value: Any, where: str) -> dict[str, Any]:
  """A text, or a medium that comes with the request: nothing is fetched."""
  if not isinstance(value, dict):
    raise wrong(f"{where} must be an object", "messages")
  match value:
    case {"type": "text", "text": str(text), **rest} if not rest:
      return {"type": "text", "text": text}
    case {"type": "image_url", "image_url": {"url": str(url), **options}, **rest} if not rest:
      if not url.startswith("data:"):
        raise wrong(f"{where}: images come as data: URLs, for nothing is fetched", "messages", "unsupported_value")
      if options.get("detail", "auto") not in ("auto", "low", "high") or options.keys() - {"detail"}:
        raise wrong(f"{where}.image_url has url and detail alone", "messages")
      return {"type": "image_url", "image_url": {"url": url}}
    case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(name), **more}, **rest} if not (
        rest or more):
      return {"type": "input_audio", "input_audio": {"data": data, "format": name}}
  raise wrong(f"{where} must be a part of type text, image_url or input_audio, with what belongs to it alone",
              "messages")


async def _encoded(asked: Asked, http: HttpRequest, context: Context) -> Asked:
  """With the conversation for its prompt. Media are decoded in turn, and nobody else waits for them."""
  def work() -> Asked:
    with asking.mistakes_in("messages"):
      ids, ends = asked.model.chat(asked.messages)
    asking.check_length(ids, "messages", context.settings)
    return dataclasses.replace(asked, prompts=[tuple(ids)], stop=(*asked.stop, *ends))

  parts = itertools.chain.from_iterable(one["content"] for one in asked.messages if isinstance(one["content"], list))
  if all(part["type"] == "text" for part in parts):
    return await asyncio.to_thread(work)
  async with while_there(http.receive), context.media.turn(context.settings.max_waiting_media):
    return await anyio.to_thread.run_sync(work)


class _Chat:
  """Choices with a message, or parts of one."""

  prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

  def __init__(self, asked: Asked):
    self._asked, self._model = asked, asked.model

  def whole(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._log_probs(tokens), "finish_reason": reason}

  def opening(self, index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

  def part(self, index: int, text: str, tokens: Sequence[Token], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {} if reason else {"content": text},
            "logprobs": self._log_probs(tokens) if tokens else None, "finish_reason": reason}

  def _log_probs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
    if self._asked.top is None:
      return None
    return {"content": [
        {**self._token(token.id, token.log_prob),
         "top_logprobs": [self._token(*one) for one in token.top[:self._asked.top]]} for token in tokens],
            "refusal": None}

  def _token(self, token: int, value: float | None) -> dict[str, Any]:
    return {"token": self._model.text(token), "logprob": log_prob(LOWEST if value is None else value),
            "bytes": list(self._model.raw(token))}
