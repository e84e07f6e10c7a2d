"""`POST /v1/completions`: texts continued."""

import asyncio
from collections.abc import Sequence
import dataclasses
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gpt4x.errors import UserError
from gpt4x.serving import answers, asking, fields, writing
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Delta, Event, Finished, Prompted, Served, Token
from gpt4x.serving.problems import wrong
from gpt4x.serving.settings import Settings

_DEFAULT_TOKENS = 16
_NEUTRAL = asking.NEUTRAL | {"suffix": lambda value: value == ""}


async def route(http: HttpRequest, context: Context) -> Response:
  body = await http.body()
  asked = await asyncio.to_thread(_asked, body, context)
  return await answers.answer(http, context, asked, _Completion(asked), "cmpl", "text_completion")


def _asked(body: bytes, context: Context) -> asking.Asked:
  """Reads a request and encodes its prompts; raises Problem."""
  given, settings = fields.read(body, context.settings.max_depth), context.settings
  model = context.model(given)
  prompts = _prompts(given.take("prompt"), model, settings.max_prompts)
  n = given.integer("n", 1, settings.max_n, 1)
  best_of = given.optional_integer("best_of", 1, settings.max_n)
  if best_of not in (None, n):
    raise wrong("best_of is not supported: ask for n, and choose by logprobs", "best_of", "unsupported_value")
  stream, include_usage = asking.streaming(given)
  asked = asking.Asked(
      model, (), n, given.integer("max_tokens", 0, settings.max_tokens, _DEFAULT_TOKENS),
      asking.sampling(given, model), asking.seed(given), asking.stop(given), stream, include_usage,
      given.optional_integer("logprobs", 0, 5), given.flag("echo"),
      [one if isinstance(one, str) else None for one in prompts])
  given.neutral(_NEUTRAL)
  given.finish()
  return dataclasses.replace(asked, prompts=[_encoded(one, model, settings) for one in prompts])  # All else is right.


def _prompts(value: Any, model: Served, most: int) -> list[str | tuple[int, ...]]:
  """A text, texts, ids or lists of ids."""
  if value is None or isinstance(value, str):
    return [value or ""]
  if not isinstance(value, list) or not value:
    raise wrong("prompt must be a text, texts, ids, or lists of ids", "prompt")
  if (ids := asking.ids_of(value, "prompt", model)) is not None:
    return [ids]
  if len(value) > most:
    raise wrong(f"prompt has more than {most} prompts", "prompt")
  return [_prompt(one, model) for one in value]


def _prompt(value: Any, model: Served) -> str | tuple[int, ...]:
  if isinstance(value, str):
    return value
  if (ids := asking.ids_of(value, "prompt", model)) is None:
    raise wrong("each prompt must be a text or a list of ids", "prompt")
  return ids


def _encoded(prompt: str | tuple[int, ...], model: Served, settings: Settings) -> tuple[int, ...]:
  try:
    ids = tuple(model.encode(prompt)) if isinstance(prompt, str) else prompt
  except UserError as error:
    raise wrong(str(error), "prompt") from None
  asking.check_length(ids, "prompt", settings)
  return ids


class _Completion:
  """Choices with `text`, and log-probabilities as four lists."""

  def __init__(self, asked: asking.Asked):
    self._asked, self._model = asked, asked.model
    self._echoes = [self._echoed(index) for index in range(len(asked.prompts))] if asked.echo else []
    self._offsets: dict[int, writing.Offsets] = {}

  def _echoed(self, prompt: int) -> str:
    given = self._asked.prompt_texts[prompt]
    return writing.joined(self._model, self._asked.prompts[prompt]) if given is None else given

  def _echo(self, index: int) -> str:
    return self._echoes[index // self._asked.n] if self._asked.echo else ""

  def whole(self, choices: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    return [self._choice(index, self._echo(index) + answers.text_of(events), answers.tokens_of(events),
                         answers.reason_of(events)) for index, events in enumerate(choices)]

  def opening(self) -> list[dict[str, Any]]:
    if not self._asked.echo or self._asked.top is not None:  # With log-probabilities, they come with the prompt.
      return []
    return [self._choice(index, self._echo(index), (), None)
            for index in range(len(self._asked.prompts) * self._asked.n)]

  def chunks(self, index: int, event: Event) -> list[dict[str, Any]]:
    match event:
      case Prompted(tokens):
        return [self._choice(index, self._echo(index), tokens, None)]
      case Delta(text, tokens) if text or (tokens and self._asked.top is not None):
        return [self._choice(index, text, tokens, None)]
      case Finished(reason):
        return [self._choice(index, "", (), reason)]
    return []

  def _choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
    log_probs = self._log_probs(index, tokens, text) if self._asked.top is not None and (tokens or reason) else None
    return {"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason}

  def _log_probs(self, index: int, tokens: Sequence[Token], text: str) -> dict[str, Any]:
    offsets = self._offsets.setdefault(index, writing.Offsets(self._model, text))
    return {
        "tokens": [writing.label(self._model, token.id) for token in tokens],
        "token_logprobs": [None if token.log_prob is None else writing.log_prob(token.log_prob) for token in tokens],
        "top_logprobs": [self._top(token) for token in tokens] if self._asked.top else None,
        "text_offset": offsets([token.id for token in tokens]),
    }

  def _top(self, token: Token) -> dict[str, float] | None:
    """The likeliest in a token's place, and the token itself; None where nothing is known."""
    if token.log_prob is None:
      return None
    found: dict[str, float] = {}
    for one, value in [*token.top[:self._asked.top], (token.id, token.log_prob)]:
      found.setdefault(writing.label(self._model, one), writing.log_prob(value))
    return found
