"""`POST /v1/chat/completions`: the next message of a conversation."""

import asyncio
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gpt4x.errors import UserError
from gpt4x.serving import answers, asking, fields, writing
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Delta, Event, Finished, Token
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
  body = await http.body()
  asked, messages = await asyncio.to_thread(_asked, body, context)
  if _has_media(messages):
    asked = await context.media.run(context.settings.max_waiting_media, _encoded, asked, messages, context.settings)
  else:
    asked = await asyncio.to_thread(_encoded, asked, messages, context.settings)
  return await answers.answer(http, context, asked, _Chat(asked), "chatcmpl", "chat.completion")


def _asked(body: bytes, context: Context) -> tuple[asking.Asked, list[dict[str, Any]]]:
  """Reads a request, whose prompt is still to be encoded, and its messages; raises Problem."""
  given, settings = fields.read(body, context.settings.max_depth), context.settings
  model = context.model(given)
  if model.chat_refusal is not None:
    raise wrong(model.chat_refusal, "model", "chat_not_supported")
  messages = _messages(given.take("messages"), settings.max_prompts * 8)
  stream, include_usage = asking.streaming(given)
  max_tokens, stop, top = _max_tokens(given, settings.max_tokens), asking.stop(given), _top(given)
  n, sampling, seed = given.integer("n", 1, settings.max_n, 1), asking.sampling(given, model), asking.seed(given)
  given.neutral(_NEUTRAL)
  given.finish()
  return asking.Asked(model, (), n, max_tokens, sampling, seed, stop, stream, include_usage, top), messages


def _max_tokens(given: fields.Fields, most: int) -> int:
  old, new = (given.optional_integer(name, 0, most) for name in ("max_tokens", "max_completion_tokens"))
  if None not in (old, new) and old != new:
    raise wrong("max_tokens and max_completion_tokens are two names of one number", "max_tokens")
  return next((one for one in (new, old) if one is not None), min(_DEFAULT_TOKENS, most))


def _top(given: fields.Fields) -> int | None:
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
  given = fields.Fields(value, f"{where}.")
  role, content = given.take("role"), given.take("content")
  if role not in _ROLES:
    raise wrong(f"{where}.role must be one of {', '.join(_ROLES)}", "messages")
  if isinstance(content, list):
    content = [_part(one, f"{where}.content[{place}]") for place, one in enumerate(content)]
  elif not isinstance(content, str):
    raise wrong(f"{where}.content must be a text or a list of parts", "messages")
  # What an answer of this server brings along when it becomes a part of the next request.
  given.neutral({"name": lambda value: isinstance(value, str), "refusal": lambda _: False, "tool_calls": _empty,
                 "annotations": _empty, "audio": lambda _: False, "function_call": lambda _: False})
  given.finish()
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


def _has_media(messages: Sequence[dict[str, Any]]) -> bool:
  parts = itertools.chain.from_iterable(one["content"] for one in messages if isinstance(one["content"], list))
  return any(part["type"] != "text" for part in parts)


def _encoded(asked: asking.Asked, messages: Sequence[dict[str, Any]], settings: Settings) -> asking.Asked:
  """The same with the conversation for its prompt."""
  try:
    ids, ends = asked.model.chat(messages)
  except UserError as error:
    raise wrong(str(error), "messages") from None
  asking.check_length(ids, "messages", settings)
  return dataclasses.replace(asked, prompts=[tuple(ids)], stop=(*asked.stop, *ends))


class _Chat:
  """Choices with a message, or parts of one."""

  def __init__(self, asked: asking.Asked):
    self._asked, self._model = asked, asked.model

  def whole(self, choices: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    return [{"index": index, "message": {"role": "assistant", "content": answers.text_of(events), "refusal": None},
             "logprobs": self._log_probs(answers.tokens_of(events)), "finish_reason": answers.reason_of(events)}
            for index, events in enumerate(choices)]

  def opening(self) -> list[dict[str, Any]]:
    return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._asked.n)]

  def chunks(self, index: int, event: Event) -> list[dict[str, Any]]:
    match event:
      case Delta(text, tokens) if text or (tokens and self._asked.top is not None):
        return [self._chunk(index, {"content": text}, tokens)]
      case Finished(reason):
        return [self._chunk(index, {}, reason=reason)]
    return []

  def _chunk(self, index: int, delta: dict[str, str], tokens: Sequence[Token] = (),
             reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": self._log_probs(tokens) if tokens else None,
            "finish_reason": reason}

  def _log_probs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
    if self._asked.top is None:
      return None
    return {"content": [
        {**self._token(token.id, token.log_prob),
         "top_logprobs": [self._token(*one) for one in token.top[:self._asked.top]]} for token in tokens],
            "refusal": None}

  def _token(self, token: int, value: float | None) -> dict[str, Any]:
    return {"token": self._model.text(token), "logprob": writing.log_prob(writing.LOWEST if value is None else value),
            "bytes": list(self._model.raw(token))}
