"""What is done with records that cannot be used."""

from gpt4x.data.task_examples import say_once
from gpt4x.errors import UserError


class BadRecords:
  """An error for the first, or a count of them and a warning."""

  def __init__(self, policy: str, parameter: str):
    """Takes 'raise' or 'skip', and the name that gin has for that."""
    self.policy, self.count, self.first, self._parameter = policy, 0, "", parameter

  def __call__(self, message: str) -> None:
    if self.policy == "raise":
      raise UserError(f"{message}, or set {self._parameter} = 'skip'")
    self.count, self.first = self.count + 1, self.first or message

  def report(self, of: int, what: str) -> None:
    if self.count:
      say_once(f"gpt4x: warning: skipped {self.count:,} bad {what} of {of:,}, as {self._parameter} = 'skip' has it; the"
               f" first: {self.first}")
