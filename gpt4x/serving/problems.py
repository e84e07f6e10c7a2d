"""Errors as clients of OpenAI's API know them: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Problem(Exception):
  """A request that gets an error for its answer.

  The message repeats no prompt and no path, for it is shown and may be logged by clients.
  """

  def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
               headers: Mapping[str, str] | None = None):
    super().__init__(message)
    self.status, self.message, self.param, self.code = status, message, param, code
    self.headers = dict(headers or {})

  def body(self) -> dict[str, dict[str, str | None]]:
    kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
    return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(message: str, param: str | None = None, code: str | None = None) -> Problem:
  """A mistake in the body of a request."""
  return Problem(400, message, param=param, code=code)


def busy(message: str, retry_after: float, status: int = 429) -> Problem:
  """No room now; clients wait for `retry_after` seconds, at least one, and try again."""
  return Problem(status, message, code="overloaded" if status == 429 else "unavailable",
                 headers={"retry-after": str(max(1, round(retry_after)))})
