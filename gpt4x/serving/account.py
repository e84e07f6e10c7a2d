"""What one request has come to, for the access log and the metrics."""

import dataclasses

from starlette.types import Scope


@dataclasses.dataclass
class Account:
  """Filled in while a request is answered.

  Attributes:
    prompt_tokens, completion_tokens: that the answer says it used.
    failed: an error was written into a stream, whose status had been sent.
  """

  prompt_tokens: int = 0
  completion_tokens: int = 0
  failed: bool = False

  @classmethod
  def of(cls, scope: Scope) -> "Account":
    """The one of a request."""
    return scope.setdefault("gpt4x.account", cls())

  def set(self, prompt_tokens: int, completion_tokens: int) -> None:
    self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
