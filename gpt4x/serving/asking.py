"""What a request asks of a model, in the fields that several routes share."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import secrets
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from gpt4x.errors import UserError
from gpt4x.inference.sampling import Sampling
from gpt4x.serving import fields
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Request, Served
from gpt4x.serving.fields import Fields
from gpt4x.serving.problems import wrong
from gpt4x.serving.settings import Settings

_SEEDS = 2**32
_LONGEST_STOP = 1000
_MAX_BIAS = 1024

_is_text = lambda value: isinstance(value, str)
_is_object = lambda value: isinstance(value, dict)
# Fields of OpenAI's that ask for nothing if they have such values, of completions and of conversations.
NEUTRAL = {
    "user": _is_text, "metadata": _is_object, "safety_identifier": _is_text, "prompt_cache_key": _is_text,
    "store": lambda value: value is False, "service_tier": lambda value: value in ("auto", "default"),
}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a request wants of each of its prompts."""

  model: Served
  n: int
  sampling: Sampling
  seed: int
  stop: tuple[str, ...]
  stream: bool
  include_usage: bool
  max_tokens: int = 0
  top: int | None = None  # Likeliest tokens with each; None: no log-probabilities at all.
  prompts: Sequence[tuple[int, ...]] = ()
  messages: Sequence[dict[str, Any]] = ()  # Of a conversation, whose prompt is still to be made of them.
  echoes: Sequence[str] = ()  # The prompts as texts, if they stand ahead of what is drawn.

  @property
  def count(self) -> int:
    """Of choices."""
    return len(self.prompts) * self.n

  def requests(self) -> list[Request]:
    """One for each choice, in the order of their indices."""
    scored = bool(self.echoes) and self.top is not None
    return [Request(ids, self.max_tokens, self.sampling, self.seed, sample, self.stop, self.top or 0, scored)
            for ids in self.prompts for sample in range(self.n)]

  def echo(self, index: int) -> str:
    """What stands ahead of a choice."""
    return self.echoes[index // self.n] if self.echoes else ""


async def received(http: HttpRequest, context: Context, read: Callable[[Fields, Served, Settings], T]) -> T:
  """What `read` makes of a request's fields, for the model that it names. Raises Problem."""
  body = await http.body()

  def work() -> T:
    given = fields.read(body, context.settings.max_depth)
    return read(given, context.model(given), context.settings)
  return await asyncio.to_thread(work)


def asked(given: Fields, model: Served, settings: Settings) -> Asked:
  """What completions and conversations ask alike; the rest is still to be filled in."""
  stream, include_usage = _streaming(given)
  return Asked(model, given.integer("n", 1, settings.max_n, 1), _sampling(given, model), _seed(given), _stop(given),
               stream, include_usage)


def _streaming(given: Fields) -> tuple[bool, bool]:
  """Whether the answer is a stream, and whether it ends with what it used."""
  stream, options = given.flag("stream"), given.take("stream_options")
  if options is None:
    return stream, False
  if not stream:
    raise wrong("stream_options is for stream: true", "stream_options")
  if not isinstance(options, dict):
    raise wrong("stream_options must be an object", "stream_options")
  inner = Fields(options, "stream_options.")
  include_usage = inner.flag("include_usage")
  inner.finish({"include_obfuscation": lambda value: value is False})
  return stream, include_usage


def _sampling(given: Fields, model: Served) -> Sampling:
  top_k = given.integer("top_k", -1, 2**31 - 1, 0)
  return Sampling(
      temperature=given.number("temperature", 0, 2, 1.0),
      top_p=given.number("top_p", 0, 1, 1.0),
      top_k=top_k if top_k > 0 else None,
      min_p=given.number("min_p", 0, 1, 0.0),
      presence_penalty=given.number("presence_penalty", -2, 2, 0.0),
      frequency_penalty=given.number("frequency_penalty", -2, 2, 0.0),
      repetition_penalty=given.number("repetition_penalty", 0.01, 100, 1.0),
      bias=_bias(given.take("logit_bias"), model))


def _bias(value: Any, model: Served) -> tuple[tuple[int, float], ...]:
  if value is None:
    return ()
  name = "logit_bias"
  if not isinstance(value, dict) or len(value) > _MAX_BIAS:
    raise wrong(f"{name} must be an object of at most {_MAX_BIAS} ids", name)
  for key in value:
    # Not isdigit(), which takes digits of every script, and int() spaces and underscores.
    if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < model.num_ids):
      raise wrong(f"names in {name} must be ids from 0 to {model.num_ids - 1}", name)
  if len({int(key) for key in value}) < len(value):
    raise wrong(f"{name} has an id twice", name)
  return tuple((int(key), Fields({name: one}).number(name, -100, 100, 0.0)) for key, one in sorted(value.items()))


def _seed(given: Fields) -> int:
  """What draws follow from; without one, the same request draws anew each time."""
  value = given.optional_integer("seed", -2**63, 2**63 - 1)
  return secrets.randbelow(_SEEDS) if value is None else value % _SEEDS


def _stop(given: Fields) -> tuple[str, ...]:
  value = given.take("stop")
  if value is None:
    return ()
  found = [value] if isinstance(value, str) else value
  if not (isinstance(found, list) and len(found) <= 4 and all(
      isinstance(one, str) and 0 < len(one) <= _LONGEST_STOP for one in found)):
    raise wrong(f"stop must be a text or up to 4 texts of 1 to {_LONGEST_STOP} characters", "stop")
  return tuple(found)


def texts(value: Any, name: str, model: Served, most: int, each: str, many: str) -> list[str | tuple[int, ...]]:
  """A text, texts, ids or lists of ids: each a text or its ids. `each` and `many` are words of errors."""
  if isinstance(value, str):
    return [value]
  if not isinstance(value, list) or not value:
    raise wrong(f"{name} must be a text, texts, ids, or lists of ids", name)
  if (ids := _ids(value, name, model)) is not None:
    return [ids]
  if len(value) > most:
    raise wrong(f"{name} has more than {most} {many}", name)
  found = [one if isinstance(one, str) else _ids(one, name, model) for one in value]
  if None in found:
    raise wrong(f"each {name} must be {each}", name)
  return [one for one in found if one is not None]


def _ids(value: Any, name: str, model: Served) -> tuple[int, ...] | None:
  """A list of ids; None: it is something else."""
  if not isinstance(value, list) or not all(fields.is_integer(one) for one in value):
    return None
  if not all(0 <= one < model.num_ids for one in value):
    raise wrong(f"ids of {name} must be from 0 to {model.num_ids - 1}", name)
  return tuple(value)


def encoded(text: str | tuple[int, ...], name: str, model: Served, settings: Settings) -> tuple[int, ...]:
  """The ids of a text, or ids as they are; no more than are allowed."""
  with mistakes_in(name):
    ids = tuple(model.encode(text)) if isinstance(text, str) else text
  check_length(ids, name, settings)
  return ids


@contextlib.contextmanager
def mistakes_in(name: str) -> Iterator[None]:
  """What the model cannot read is a mistake in this field."""
  try:
    yield
  except UserError as error:
    raise wrong(str(error), name) from None


def check_length(ids: Sequence[int], name: str, settings: Settings) -> None:
  if len(ids) > settings.max_prompt:
    raise wrong(f"{name} has {len(ids)} tokens, more than {settings.max_prompt}", name, "context_length_exceeded")
