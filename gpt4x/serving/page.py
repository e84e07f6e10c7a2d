"""The page to try models on: one file, whose style and script are allowed by their hashes and nothing else is."""

import base64
import functools
import hashlib
import importlib.resources
import re

from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response

from gpt4x.serving.context import Context


@functools.cache
def content() -> tuple[str, str]:
  """The page and its content security policy."""
  text = importlib.resources.files(__package__).joinpath("page.html").read_text("utf-8")
  hashes = {}
  for tag in ("script", "style"):
    inner, = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    hashes[tag] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
  policy = "; ".join([
      "default-src 'none'", *(f"{tag}-src 'sha256-{value}'" for tag, value in hashes.items()), "connect-src 'self'",
      "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
  return text, policy


async def route(_: HttpRequest, __: Context) -> Response:
  text, policy = content()
  return HTMLResponse(text, headers={"content-security-policy": policy, "x-frame-options": "DENY"})
