"""What completions and conversations have in common: fields of sampling, lengths and streams."""

from collections.abc import Sequence
import dataclasses
import secrets
from typing import Any

from gpt4x.inference.sampling import Sampling
from gpt4x.serving.contract import Request, Served
from gpt4x.serving.fields import Fields, is_integer
from gpt4x.serving.problems import wrong
from gpt4x.serving.settings import Settings

_SEEDS = 2**32
_LONGEST_STOP = 1000
_MAX_BIAS = 1024

_is_text = lambda value: isinstance(value, str)
_is_object = lambda value: isinstance(value, dict)
# Fields of OpenAI's that ask for nothing if they have such values, in both kinds of requests.
NEUTRAL = {
    "user": _is_text, "metadata": _is_object, "safety_identifier": _is_text, "prompt_cache_key": _is_text,
    "store": lambda value: value is False, "service_tier": lambda value: value in ("auto", "default"),
}


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a request wants of each of its prompts."""

  model: Served
  prompts: Sequence[tuple[int, ...]]
  n: int
  max_tokens: int
  sampling: Sampling
  seed: int
  stop: tuple[str, ...]
  stream: bool
  include_usage: bool
  top: int | None = None  # Likeliest tokens with each; None: no log-probabilities at all.
  echo: bool = False
  prompt_texts: Sequence[str | None] = ()  # As they were given, for `echo`; None: as ids.

  def requests(self) -> list[Request]:
    """One for each choice, in the order of their indices."""
    return [Request(
        ids, self.max_tokens, self.sampling, self.seed, sample, self.stop, self.top or 0,
        prompt_log_probs=self.echo and self.top is not None) for ids in self.prompts for sample in range(self.n)]


def sampling(fields: Fields, model: Served) -> Sampling:
  top_k = fields.integer("top_k", -1, 2**31 - 1, 0)
  return Sampling(
      temperature=fields.number("temperature", 0, 2, 1.0),
      top_p=fields.number("top_p", 0, 1, 1.0),
      top_k=top_k if top_k > 0 else None,
      min_p=fields.number("min_p", 0, 1, 0.0),
      presence_penalty=fields.number("presence_penalty", -2, 2, 0.0),
      frequency_penalty=fields.number("frequency_penalty", -2, 2, 0.0),
      repetition_penalty=fields.number("repetition_penalty", 0.01, 100, 1.0),
      bias=_bias(fields.take("logit_bias"), model))


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


def seed(fields: Fields) -> int:
  """What draws follow from; without one, the same request draws anew each time."""
  value = fields.optional_integer("seed", -2**63, 2**63 - 1)
  return secrets.randbelow(_SEEDS) if value is None else value % _SEEDS


def stop(fields: Fields) -> tuple[str, ...]:
  value = fields.take("stop")
  if value is None:
    return ()
  texts = [value] if isinstance(value, str) else value
  if not (isinstance(texts, list) and len(texts) <= 4 and all(
      isinstance(one, str) and 0 < len(one) <= _LONGEST_STOP for one in texts)):
    raise wrong(f"stop must be a text or up to 4 texts of 1 to {_LONGEST_STOP} characters", "stop")
  return tuple(texts)


def streaming(fields: Fields) -> tuple[bool, bool]:
  """Whether the answer is a stream, and whether it ends with what it used."""
  stream, options = fields.flag("stream"), fields.take("stream_options")
  if options is None:
    return stream, False
  if not stream:
    raise wrong("stream_options is for stream: true", "stream_options")
  if not isinstance(options, dict):
    raise wrong("stream_options must be an object", "stream_options")
  inner = Fields(options, "stream_options.")
  include_usage = inner.flag("include_usage")
  inner.neutral({"include_obfuscation": lambda value: value is False})
  inner.finish()
  return stream, include_usage


def ids_of(value: Any, name: str, model: Served) -> tuple[int, ...] | None:
  """A list of ids; None: it is another list."""
  if not isinstance(value, list) or not all(is_integer(one) for one in value):
    return None
  if not all(0 <= one < model.num_ids for one in value):
    raise wrong(f"ids of {name} must be from 0 to {model.num_ids - 1}", name)
  return tuple(value)


def check_length(ids: Sequence[int], name: str, settings: Settings) -> None:
  if len(ids) > settings.max_prompt:
    raise wrong(f"{name} has {len(ids)} tokens, more than {settings.max_prompt}", name, "context_length_exceeded")
