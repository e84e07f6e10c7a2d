"""Answers as clients of this API know them: whole, or in events."""

import codecs
from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from gpt4x.serving.asked import Asked
from gpt4x.serving.contract import Delta, Failed, Finished, Prompted, Served, Token

DONE = b"data: [DONE]\n\n"


def event(content: Mapping[str, Any]) -> bytes:
  """One event of a stream."""
  return b"data: " + json.dumps(content).encode() + b"\n\n"


class TokenTexts:
  """The texts of tokens, and where each begins in the text of all; a part of a character is told by its bytes."""

  def __init__(self, model: Served):
    self._model, self._offset = model, 0
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

  def next(self, token: int) -> tuple[str, int]:
    """The text of one more token, and its place in characters."""
    raw, offset = self._model.raw(token), self._offset
    self._offset += len(self._decoder.decode(raw))
    return named(raw), offset


def named(raw: bytes) -> str:
  """A token as text; one that is no whole text is written `bytes:\\xe2\\x82`."""
  try:
    return raw.decode("utf-8")
  except UnicodeDecodeError:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Choice:
  """One continuation as it comes."""

  def __init__(self, number: int, asked: Asked, model: Served):
    self.number, self._asked, self._model = number, asked, model
    self._texts, self.text, self.tokens = TokenTexts(model), "", list[Token]()
    self.finished: Finished | None = None
    self._echo = asked.prompts[number] if asked.prompts else ""

  def take(self, one: Prompted | Delta | Finished) -> "Part":
    """What an event adds."""
    if isinstance(one, Finished):
      self.finished = one
      text, self._echo = self._echo, ""
      self.text += text
      return Part(self.number, text, [], one.reason)
    if isinstance(one, Prompted):
      text, tokens = self._echo, list(one.tokens)
    else:
      text, tokens = self._echo + one.text, list(one.tokens)
    self._echo = ""
    self.text += text
    self.tokens += tokens
    return Part(self.number, text, tokens, None)

  def log_probs(self, tokens: Sequence[Token], chat: bool) -> dict[str, Any] | None:
    """Those of further tokens, each of which is to be told once, in order."""
    if not self._asked.log_probs:
      return None
    return self._of_chat(tokens) if chat else self._of_completion(tokens)

  def _of_completion(self, tokens: Sequence[Token]) -> dict[str, Any]:
    placed = [self._texts.next(token.id) for token in tokens]
    top = self._asked.requests[self.number].top
    likeliest = [{named(self._model.raw(i)): value for i, value in token.top} for token in tokens]
    return {"tokens": [text for text, _ in placed], "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": likeliest if top else None, "text_offset": [offset for _, offset in placed]}

  def _of_chat(self, tokens: Sequence[Token]) -> dict[str, Any]:
    return {"content": [self._one(token.id, token.log_prob) | {
        "top_logprobs": [self._one(i, value) for i, value in token.top]} for token in tokens], "refusal": None}

  def _one(self, token: int, log_prob: float | None) -> dict[str, Any]:
    raw = self._model.raw(token)
    return {"token": named(raw), "logprob": log_prob, "bytes": list(raw)}


@dataclasses.dataclass(frozen=True)
class Part:
  """What is new of a choice."""

  number: int
  text: str
  tokens: list[Token]
  reason: str | None


class Writer:
  """Writes one answer, of /v1/completions or of /v1/chat/completions."""

  def __init__(self, identity: str, created: int, asked: Asked, model: Served, chat: bool):
    self._chat, self._asked, self._model = chat, asked, model
    self.choices = [Choice(number, asked, model) for number in range(len(asked.requests))]
    self._head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{identity}", "created": created, "model": model.name}
    self._begun = set[int]()

  def whole(self) -> dict[str, Any]:
    """The answer once all choices are finished."""
    return self._named(False) | {"choices": [self._whole(one) for one in self.choices], "usage": self.usage()}

  def _whole(self, choice: Choice) -> dict[str, Any]:
    assert choice.finished
    rest: dict[str, Any] = {"index": choice.number, "logprobs": choice.log_probs(choice.tokens, self._chat),
                            "finish_reason": choice.finished.reason}
    if self._chat:
      return {"message": {"role": "assistant", "content": choice.text, "refusal": None}} | rest
    return {"text": choice.text} | rest

  def chunk(self, part: Part) -> bytes | None:
    """The event of a part; None where there is nothing to say."""
    choice = self.choices[part.number]
    if not (part.text or part.reason or (part.tokens and self._asked.log_probs)):
      return None
    rest: dict[str, Any] = {
        "index": part.number, "finish_reason": part.reason,
        "logprobs": choice.log_probs(part.tokens, self._chat) if part.tokens else None}
    if self._chat:
      first = {} if part.number in self._begun else {"role": "assistant"}
      self._begun.add(part.number)
      content = {"delta": first | ({"content": part.text} if part.text or first else {})} | rest
    else:
      content = {"text": part.text} | rest
    return event(self._named(True) | {"choices": [content]} | ({"usage": None} if self._asked.usage else {}))

  def last(self) -> list[bytes]:
    """What ends a stream."""
    usage = [event(self._named(True) | {"choices": [], "usage": self.usage()})] if self._asked.usage else []
    return [*usage, DONE]

  def usage(self) -> dict[str, Any]:
    written = sum(one.finished.completion_tokens for one in self.choices if one.finished)
    cached = sum(one.finished.cached_tokens for one, request in zip(self.choices, self._asked.requests)
                 if one.finished and request.sample == 0)
    read = self._asked.prompt_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached}}

  def _named(self, streamed: bool) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if streamed else "chat.completion") if self._chat else "text_completion"
    return self._head | {"object": kind}


def failure(failed: Failed) -> dict[str, Any]:
  """The error of a continuation that failed."""
  return {"error": {"message": failed.message, "type": "server_error", "param": None, "code": None}}
