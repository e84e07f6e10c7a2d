"""The page: what it holds, what it may load, and that it works in a browser where there is one."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
import urllib.parse

import pytest

from gpt4x.serving import page
from tests.serving.asking import app_of, get, serving
from tests.serving.fake import Fake, SECONDS

KEY = "a-key-of-twenty-chars"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Run in the page: what a user does; then what is seen is asked for, so that the server hears of it.
ACTS = """
const until = what => new Promise(done => {
  const look = () => what() ? done() : requestAnimationFrame(look);
  look();
});
(async () => {
  at("key").value = KEY; await models(); await until(() => at("model").options.length === 2);
  at("prompt").value = "<img src=x onerror=document.title='injected'>"; await run();
  const completed = at("answer").textContent, elements = at("answer").querySelectorAll("img").length;
  at("tab-chat").click(); at("prompt").value = "hello"; await run();
  const said = [...at("chat").children].map(one => one.textContent);
  at("prompt").value = "again"; await run();
  at("model").value = "broken"; at("prompt").value = "x"; await run();
  const seen = {completed, elements, said, turns: messages.length, error: at("state").textContent,
                kept: at("prompt").value, storage: localStorage.length + sessionStorage.length};
  await fetch("v1/models?" + encodeURIComponent(JSON.stringify(seen)), {headers: headers()});
})();
"""


def test_nothing_but_the_page_s_own_style_and_script_may_run():
  found = get(app_of(Fake(), keys=(KEY.encode(),)), "/")
  text, policy = found.body.decode(), found.headers["content-security-policy"]
  assert found.status == 200 and "unsafe" not in policy and policy.startswith("default-src 'none'")
  for tag in ("script", "style"):
    (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'" in policy
  assert not re.search(r"https?://|\ssrc=|@import|url\(|innerHTML|outerHTML|insertAdjacent|document\.write|eval\("
                       r"|localStorage|sessionStorage|cookie|\son\w+=|\sstyle=", text)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser(tmp_path):
  """Completes and chats, with a key; text stays text; a failure is shown and nothing said is lost."""
  model, broken = Fake(), Fake("broken", fail_after=0)
  app, seen, done = app_of(model, broken, keys=(KEY.encode(),)), [], threading.Event()
  inner = app._app

  async def looking(scope, receive, send):
    if scope["path"] == "/v1/models" and scope["query_string"]:
      seen.append(json.loads(urllib.parse.unquote(scope["query_string"].decode())))
      done.set()
    await inner(scope, receive, send)
  app._app = looking
  text, _ = page.content()
  acting = text.replace("models();\n</script>", f"const KEY = {KEY!r};\n{ACTS}</script>")
  assert acting != text
  page.content.cache_clear()
  with pytest.MonkeyPatch.context() as patched, serving(app) as (_, port):
    script, = re.findall("<script>(.*?)</script>", acting, re.DOTALL)
    value = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.sub("script-src '[^']+'", f"script-src 'sha256-{value}'", page.content()[1])
    patched.setattr(page, "content", lambda: (acting, policy))
    browser = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={tmp_path}", "--remote-debugging-port=0",
         f"http://127.0.0.1:{port}/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
      assert done.wait(3 * SECONDS)
    finally:
      browser.kill()
      browser.wait()
  (found,) = seen
  assert found["completed"].startswith("<img src=x") and found["completed"].endswith("naïve € 𝄞")
  assert found["elements"] == 0 and found["storage"] == 0
  assert found["said"][0] == "hello" and "naïve" in found["said"][1]
  assert found["turns"] == 4 and found["error"] == "the engine stopped" and found["kept"] == "x"
