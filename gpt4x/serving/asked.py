"""What the fields of requests ask of a model."""

from collections.abc import Sequence
import dataclasses
import secrets
from typing import Any

from gpt4x.errors import UserError
from gpt4x.inference.sampling import Sampling
from gpt4x.serving.contract import Request, Served
from gpt4x.serving.fields import Fields, Refused

_SEEDS = 2**63  # Below: what clients send.
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention")


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a request may ask for.

  Attributes:
    choices: answers, over all prompts.
    prompt_tokens, new_tokens: of each.
    messages: of a conversation.
    embeddings: texts of a request.
  """

  choices: int = 16
  prompt_tokens: int = 65_536
  new_tokens: int = 16_384
  messages: int = 2_048
  embeddings: int = 256


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request for text: the continuations that make its choices, and how they are told of.

  Attributes:
    requests: of each choice, in order.
    prompts: the prompt's text of each, where it is to be repeated.
    log_probs: whether they are told.
    stream, usage: whether the answer comes as it is drawn, and whether its end says what it took.
  """

  requests: list[Request]
  prompts: list[str] | None
  log_probs: bool
  stream: bool
  usage: bool

  @property
  def prompt_tokens(self) -> int:
    """Of all prompts, each counted once, however many continuations it has."""
    return sum(len(one.ids) for one in self.requests if one.sample == 0)


def completion(fields: Fields, model: Served, limits: Limits) -> Asked:
  """What /v1/completions is asked for."""
  prompts = _prompts(fields, model, limits)
  count = fields.whole("n", 1, 1, limits.choices)
  best = fields.whole("best_of", count, 1, limits.choices)
  if best != count:
    fields.refuse("best_of", "is not supported but as n")
  _check_choices(fields, len(prompts) * count, limits)
  echo, top = fields.flag("echo"), fields.optional("logprobs", 0, 5)
  fields.neutral({"suffix": [""]})
  shared = _shared(fields, model, limits, default=16, top=top or 0, max_tokens=("max_tokens", ))
  streamed = _streamed(fields)
  fields.end()
  requests = [dataclasses.replace(shared, ids=tuple(ids), sample=sample, prompt_log_probs=echo and top is not None)
              for ids, _ in prompts for sample in range(count)]
  texts = [text for _, text in prompts for _ in range(count)] if echo else None
  return Asked(requests, texts, top is not None, *streamed)


def chat(fields: Fields, model: Served, limits: Limits) -> Asked:
  """What /v1/chat/completions is asked for."""
  if model.chat_refusal:
    raise Refused(model.chat_refusal, "model", code="no_chat_template")
  messages = [_message(one) for one in fields.objects("messages", limits.messages)]
  count = fields.whole("n", 1, 1, limits.choices)
  log_probs = fields.flag("logprobs")
  top = fields.whole("top_logprobs", 0, 0, 20)
  if top and not log_probs:
    fields.refuse("top_logprobs", "needs logprobs")
  fields.neutral({
      "tools": [[]], "functions": [[]], "tool_choice": ["none", "auto"], "function_call": ["none", "auto"],
      "response_format": [{"type": "text"}], "modalities": [["text"]], "audio": (), "web_search_options": (),
      "verbosity": ["medium"], "prediction": ()})
  fields.ignore("parallel_tool_calls", "reasoning_effort")
  try:
    ids, stop = model.chat(messages)
  except UserError as error:
    raise Refused(str(error), "messages") from None
  _check_length(fields, "messages", len(ids), limits)
  shared = _shared(fields, model, limits, default=512, top=top, max_tokens=("max_completion_tokens", "max_tokens"))
  streamed = _streamed(fields)
  fields.end()
  shared = dataclasses.replace(shared, ids=tuple(ids), stop=(*shared.stop, *stop))
  return Asked([dataclasses.replace(shared, sample=sample) for sample in range(count)], None, log_probs, *streamed)


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A request for vectors: the ids of its texts, and whether they are sent as base64."""

  ids: list[list[int]]
  base64: bool


def embedding(fields: Fields, model: Served, limits: Limits) -> Embedded:
  """What /v1/embeddings is asked for."""
  texts = [ids for ids, _ in _prompts(fields, model, limits, "input", limits.embeddings)]
  if not all(texts):
    fields.refuse("input", "has a text without tokens")
  _check_length(fields, "input", sum(map(len, texts)), limits)
  form = fields.any("encoding_format")
  if form not in (None, "float", "base64"):
    fields.refuse("encoding_format", "must be float or base64")
  fields.neutral({"dimensions": ()})
  fields.ignore(*_IGNORED)
  fields.end()
  return Embedded(texts, form == "base64")


def _prompts(fields: Fields, model: Served, limits: Limits, name: str = "prompt",
             most: int | None = None) -> list[tuple[list[int], str]]:
  """(ids, text) of each prompt: a text, ids, or a list of either."""
  value = fields.any(name)
  value = "" if value is None and name == "prompt" else value
  several = isinstance(value, list) and not (value and _is_id(value[0]))
  prompts = value if several else [value]
  most = limits.choices if most is None else most
  if not prompts:
    fields.refuse(name, "must not be empty")
  if len(prompts) > most:
    fields.refuse(name, f"has {len(prompts):,} items, and {most:,} are allowed")
  return [_prompt(fields, name, one, model, limits) for one in prompts]


def _prompt(fields: Fields, name: str, value: Any, model: Served, limits: Limits) -> tuple[list[int], str]:
  if isinstance(value, str):
    fields.checked(name, value)
    try:
      ids = model.encode(value)
    except UserError as error:
      raise Refused(str(error), name) from None
    text = value
  elif isinstance(value, list) and all(map(_is_id, value)):
    _check_length(fields, name, len(value), limits)
    if any(not 0 <= token < model.num_ids for token in value):
      fields.refuse(name, f"has ids that the model has not: they are from 0 to {model.num_ids - 1}")
    ids, text = value, b"".join(map(model.raw, value)).decode("utf-8", "replace")
  else:
    fields.refuse(name, "must be text, ids, or a list of either")
  _check_length(fields, name, len(ids), limits)
  return ids, text


def _is_id(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _message(fields: Fields) -> dict[str, Any]:
  """A message, whose parts are told of by their type."""
  role, content = fields.text("role"), fields.any("content")
  fields.ignore("name")
  fields.neutral({"tool_calls": [[]], "function_call": (), "refusal": (), "audio": ()})
  if isinstance(content, list):
    content = [{"type": part.text("type"), **({"text": part.text("text")} if part.any("type") == "text" else {})}
               for part in fields.objects("content", 256)]
  elif not isinstance(content, str):
    fields.refuse("content", "must be text or a list of parts")
  else:
    fields.checked("content", content)
  fields.end()
  return {"role": role, "content": content}


def _shared(fields: Fields, model: Served, limits: Limits, default: int, top: int,
            max_tokens: Sequence[str]) -> Request:
  """What all choices of a request have in common."""
  counts = [fields.optional(name, 0, limits.new_tokens) for name in max_tokens]
  count = next((one for one in counts if one is not None), min(default, limits.new_tokens))
  top_k = fields.whole("top_k", -1, -1, 2**31 - 1)
  sampling = Sampling(
      temperature=fields.number("temperature", 1.0, 0, 2), top_k=top_k if top_k > 0 else None,
      top_p=fields.number("top_p", 1.0, 0, 1), min_p=fields.number("min_p", 0.0, 0, 1),
      presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
      frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
      repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 100), bias=_bias(fields, model))
  seed = fields.optional("seed", -_SEEDS, _SEEDS - 1)
  fields.ignore(*_IGNORED)
  # Seeds are numbers of 31 bits here.
  return Request((), count, sampling, secrets.randbelow(2**31) if seed is None else seed % 2**31, stop=_stop(fields),
                 top=top)


def _bias(fields: Fields, model: Served) -> tuple[tuple[int, float], ...]:
  value = fields.any("logit_bias")
  if value is None:
    return ()
  if not isinstance(value, dict) or len(value) > 1024:
    fields.refuse("logit_bias", "must be an object of at most 1,024 ids")
  found = Fields(value, "logit_bias.")
  for name in value:
    if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < model.num_ids):
      fields.refuse("logit_bias", f"must have ids from 0 to {model.num_ids - 1}")
  return tuple((int(name), found.number(name, 0.0, -100, 100)) for name in value)


def _stop(fields: Fields) -> tuple[str, ...]:
  value = fields.any("stop")
  value = [] if value is None else [value] if isinstance(value, str) else value
  if not isinstance(value, list) or len(value) > 4 or not all(isinstance(one, str) and one for one in value):
    fields.refuse("stop", "must be a text, or at most 4, none of them empty")
  if any(len(one) > 1024 for one in value):
    fields.refuse("stop", "has a text of more than 1,024 characters")
  return tuple(fields.checked("stop", one) for one in value)


def _streamed(fields: Fields) -> tuple[bool, bool]:
  """(whether the answer is streamed, whether its end tells the usage)."""
  stream, options = fields.flag("stream"), fields.any("stream_options")
  if options is None:
    return stream, False
  if not stream or not isinstance(options, dict):
    fields.refuse("stream_options", "must be an object, and of a streamed answer")
  options = Fields(options, "stream_options.")
  usage = options.flag("include_usage")
  options.ignore("include_obfuscation")
  options.end()
  return stream, usage


def _check_choices(fields: Fields, count: int, limits: Limits) -> None:
  if count > limits.choices:
    fields.refuse("n", f"makes {count:,} choices of all prompts, and {limits.choices:,} are allowed")


def _check_length(fields: Fields, name: str, tokens: int, limits: Limits) -> None:
  if tokens > limits.prompt_tokens:
    raise Refused(f"{name} has {tokens:,} tokens, and {limits.prompt_tokens:,} are allowed", name,
                  code="context_length_exceeded")
