"""`POST /v1/completions`: texts continued."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gpt4x.serving import asking
from gpt4x.serving.answers import answer, log_prob
from gpt4x.serving.asking import Asked
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Served, Token
from gpt4x.serving.fields import Fields
from gpt4x.serving.offsets import Offsets
from gpt4x.serving.problems import wrong
from gpt4x.serving.settings import Settings

_DEFAULT_TOKENS = 16
_NEUTRAL = asking.NEUTRAL | {"suffix": lambda value: value == ""}


async def route(http: HttpRequest, context: Context) -> Response:
  return await answer(http, context, _asked, _Completion)


def _asked(given: Fields, model: Served, settings: Settings) -> Asked:
  """Reads a request, and encodes its prompts once all else is right."""
  value = given.take("prompt")
  prompts = asking.texts("" if value is None else value, "prompt", model, settings.max_prompts,
                         "a text or a list of ids", "prompts")
  asked = asking.asked(given, model, settings)
  if given.optional_integer("best_of", 1, settings.max_n) not in (None, asked.n):
    raise wrong("best_of is not supported: ask for n, and choose by logprobs", "best_of", "unsupported_value")
  max_tokens = given.integer("max_tokens", 0, settings.max_tokens, _DEFAULT_TOKENS)
  top, echo = given.optional_integer("logprobs", 0, 5), given.flag("echo")
  given.finish(_NEUTRAL)
  ids = [asking.encoded(one, "prompt", model, settings) for one in prompts]
  echoes = [one if isinstance(one, str) else _joined(model, one) for one in prompts] if echo else []
  return dataclasses.replace(asked, max_tokens=max_tokens, top=top, prompts=ids, echoes=echoes)


def _joined(model: Served, ids: Sequence[int]) -> str:
  return b"".join(map(model.raw, ids)).decode("utf-8", "replace")


class _Completion:
  """Choices with `text`, and log-probabilities as four lists."""

  prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

  def __init__(self, asked: Asked):
    self._asked, self._model = asked, asked.model
    self._offsets = [Offsets(asked.model) for _ in range(asked.count)]

  def opening(self, index: int) -> dict[str, Any] | None:
    """What is echoed; with log-probabilities it comes with those of the prompt."""
    return self.part(index, self._asked.echo(index), ()) if self._asked.echoes and self._asked.top is None else None

  def part(self, index: int, text: str, tokens: Sequence[Token], reason: str | None = None) -> dict[str, Any]:
    log_probs = None if self._asked.top is None else self._log_probs(index, tokens, text)  # Offsets need all texts.
    return {"index": index, "text": text, "logprobs": log_probs if tokens or reason else None, "finish_reason": reason}

  whole = part

  def _log_probs(self, index: int, tokens: Sequence[Token], text: str) -> dict[str, Any]:
    return {
        "tokens": [self._label(token.id) for token in tokens],
        "token_logprobs": [None if token.log_prob is None else log_prob(token.log_prob) for token in tokens],
        "top_logprobs": [self._top(token) for token in tokens] if self._asked.top else None,
        "text_offset": self._offsets[index](text, [token.id for token in tokens]),
    }

  def _top(self, token: Token) -> dict[str, float] | None:
    """The likeliest in a token's place, and the token itself; None where nothing is known."""
    if token.log_prob is None:
      return None
    found: dict[str, float] = {}
    for one, value in [*token.top[:self._asked.top], (token.id, token.log_prob)]:
      found.setdefault(self._label(one), log_prob(value))
    return found

  def _label(self, token: int) -> str:
    """A token as a text that is its own: parts of characters as `bytes:` and their values."""
    raw = self._model.raw(token)
    try:
      return raw.decode()
    except UnicodeDecodeError:
      return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
