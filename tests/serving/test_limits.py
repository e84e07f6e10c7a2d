"""What the gate refuses, before any route: keys, hosts, origins, and how much may be sent."""

import asyncio
import hmac
import pathlib
import pickle
import re

import pytest

from gpt4x.serving import limits
from tests.serving.asking import app_of, ask, get, JSON, post
from tests.serving.fake import Fake

KEYS = (b"first-key-of-all-0", b"second-key-of-all1")
BODY = {"model": "fake", "prompt": "a"}


def paths(app):
  return [(method, route.path.replace("{model:path}", "fake")) for route in app.routes for method in route.methods]


def test_every_route_denies_by_default():
  app = app_of(Fake(), keys=KEYS)
  asked = paths(app)
  assert len(asked) > 10
  for method, path in [*asked, ("GET", "/nothing"), ("POST", "/metrics/"), ("PUT", "/"), ("OPTIONS", "/v1/models")]:
    found = post(app, path, BODY) if method == "POST" else get(app, path, method=method)
    if path in ("/health", "/ready", "/"):
      assert found.status in (200, 405), (method, path)
    else:
      assert found.status == 401 and found.headers["www-authenticate"] == "Bearer", (method, path)
      assert found.error["code"] == "invalid_api_key" or method == "HEAD"


@pytest.mark.parametrize("path", [
    "//", "//v1/models", "/health/", "/ready/..", "/health/../v1/models", "/../v1/models", "/./v1/models", "/HEALTH",
    "/health?", "/health;/v1/models", "/v1/models/../../health", "/v1/models/health", "/v1/models//", "*", ""])
def test_no_path_leads_past_the_key(path):
  assert get(app_of(Fake(), keys=KEYS), path).status == 401


@pytest.mark.parametrize("value", [
    "", "Bearer", "Bearer ", "Bearer first-key-of-all-", "Bearer first-key-of-all-00", "Basic first-key-of-all-0",
    "first-key-of-all-0", "Bearer FIRST-KEY-OF-ALL-0", "Bearer first-key-of-all-0 second-key-of-all1",
    "Bearer first-key-of-all-0,second-key-of-all1", "Bearer \xff\x00"])
def test_no_key(value):
  assert get(app_of(Fake(), keys=KEYS), "/v1/models", {"host": "localhost", "authorization": value}).status == 401


def test_a_key_twice_is_none():
  headers = [("host", "localhost"), *[("authorization", f"Bearer {KEYS[0].decode()}")] * 2]
  assert get(app_of(Fake(), keys=KEYS), "/v1/models", headers).status == 401


def test_any_of_the_keys_is_compared_with_all_in_constant_time(monkeypatch):
  compared = []
  def compare(one, other):
    compared.append((len(one), len(other)))
    return hmac_compare(one, other)
  hmac_compare = hmac.compare_digest
  monkeypatch.setattr(limits.hmac, "compare_digest", compare)
  app = app_of(Fake(), keys=KEYS)
  for key in KEYS:
    assert get(app, "/v1/models", {"host": "localhost", "authorization": f"bearer {key.decode()}"}).status == 200
  assert compared == [(32, 32)] * 4  # Of the same length, whatever was given, and not ended by the first that fits.


def test_settings_do_not_show_keys():
  assert "first-key" not in repr(app_of(Fake(), keys=KEYS).context.settings)


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("[::1]", 200),
    ("localhost.", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("localhost:x", 421), ("", 421),
    ("localhost@evil.example", 421), ("evil.example:8000/localhost", 421), ("localhost:80:80", 421), ("[::1", 421),
    ("127.0.0.1.nip.io", 421), ("localhost, evil.example", 421)])
def test_hosts(host, status):
  assert get(app_of(Fake()), "/v1/models", {"host": host}).status == status
  assert get(app_of(Fake()), "/", {"host": host}).status == status


def test_a_host_twice_or_not_at_all():
  assert get(app_of(Fake()), "/v1/models", [("host", "localhost"), ("host", "localhost")]).status == 421
  assert get(app_of(Fake()), "/v1/models", {}).status == 421


def test_hosts_that_are_allowed():
  app = app_of(Fake(), hosts=frozenset({"models.example"}))
  assert get(app, "/v1/models", {"host": "models.example:443"}).status == 200
  assert get(app, "/v1/models", {"host": "localhost"}).status == 421
  assert get(app_of(Fake(), hosts=frozenset("*")), "/v1/models", {"host": "any.example"}).status == 200
  assert get(app, "/ready", {"host": "10.0.0.7:8000"}).status == 200  # Probes ask by address.


@pytest.mark.parametrize("name, value, status", [
    ("origin", "http://localhost:8000", 200), ("origin", "https://localhost:8000", 200), ("origin", "null", 403),
    ("origin", "http://evil.example", 403), ("origin", "http://localhost:9000", 403), ("origin", "", 403),
    ("sec-fetch-site", "same-origin", 200), ("sec-fetch-site", "none", 200), ("sec-fetch-site", "cross-site", 403),
    ("sec-fetch-site", "same-site", 403), ("sec-fetch-site", "", 403)])
def test_requests_of_other_sites(name, value, status):
  for path in ("/v1/models", "/"):
    found = get(app_of(Fake()), path, {"host": "localhost:8000", name: value})
    assert found.status == status and not any(header.startswith("access-control") for header in found.headers)


@pytest.mark.parametrize("value, status", [
    ("application/json", 200), ("Application/JSON; charset=utf-8", 200), ("text/plain", 415), ("", 415),
    ("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=application/json", 415)])
def test_kinds_of_content(value, status):
  assert post(app_of(Fake()), "/v1/completions", BODY, {"host": "localhost", "content-type": value}).status == status


def test_nothing_that_comes_is_run():
  """No pickle, no source, no YAML: bodies are JSON, and the code that reads them has no other reader."""
  for file in pathlib.Path(limits.__file__).parent.glob("*.py"):
    assert not re.search(r"\b(pickle|marshal|shelve|dill|yaml|eval|exec|__import__)\b", file.read_text("utf-8")), file
  for kind in ("application/octet-stream", "application/x-pickle", "application/yaml"):
    headers = JSON | {"content-type": kind}
    assert post(app_of(Fake()), "/v1/completions", pickle.dumps(BODY), headers).status == 415
  assert post(app_of(Fake()), "/v1/completions", pickle.dumps(BODY)).status == 400


def test_a_compressed_body_is_not_unpacked():
  assert post(app_of(Fake()), "/v1/completions", BODY, JSON | {"content-encoding": "gzip"}).status == 415


def test_a_body_that_says_it_is_too_long_is_not_read():
  async def unread():
    raise AssertionError("it was read")
  async def refused():
    sent = []
    async def send(message):
      sent.append(message)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"101")]
    await app_of(Fake(), max_body=100)({"type": "http", "method": "POST", "path": "/v1/completions", "root_path": "",
                                       "headers": headers}, unread, send)
    return sent[0]
  start = asyncio.run(refused())
  assert start["status"] == 413 and (b"connection", b"close") in start["headers"]


def test_a_body_without_a_length_is_read_no_further_than_the_limit():
  app, taken = app_of(Fake(), max_body=1000), []
  class Parts(list):
    def __iter__(self):
      for _ in range(100):
        taken.append(1)
        yield b" " * 100
  found = post(app, "/v1/completions", BODY, parts=list(Parts())[:11])
  assert found.status == 413
  assert post(app, "/v1/completions", BODY, parts=[b" " * 100] * 3).status == 200


@pytest.mark.parametrize("length", ["-1", "+5", "5.0", "x", "", "9" * 30, "1_0"])
def test_a_length_that_is_no_number(length):
  assert post(app_of(Fake()), "/v1/completions", BODY, JSON | {"content-length": length}).status == 400


def test_a_body_where_there_is_to_be_none():
  assert get(app_of(Fake()), "/v1/models", {"host": "localhost", "content-length": "5"}).status == 400
  assert get(app_of(Fake()), "/health", {"host": "localhost", "transfer-encoding": "chunked"}).status == 400


def test_a_body_that_does_not_come():
  async def slow():
    never = asyncio.Event()
    sent = []
    async def send(message):
      sent.append(message)
    headers = [(name.encode(), value.encode()) for name, value in JSON.items()]
    await app_of(Fake(), body_seconds=0.01)({"type": "http", "method": "POST", "path": "/v1/completions",
                                            "root_path": "", "headers": headers}, never.wait, send)
    return sent[0]["status"]
  assert asyncio.run(slow()) == 408


def test_too_many_headers():
  assert get(app_of(Fake(), max_header_count=3), "/health", [("host", "localhost")] * 3).status == 200
  assert get(app_of(Fake(), max_header_count=3), "/health", [("host", "localhost")] * 4).status == 431


def test_too_many_requests_at_once():
  async def many():
    model = Fake()
    model.hold()
    app = app_of(model, max_requests=2)
    tasks = [asyncio.create_task(ask(app, "POST", "/v1/completions", BODY)) for _ in range(3)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    probe = await ask(app, "GET", "/health")
    model.hold(False)
    (refused,) = [one.result() for one in done]
    return refused, probe.status, sorted([one.status for one in await asyncio.gather(*tasks)])
  refused, probe, statuses = asyncio.run(many())
  assert refused.headers["retry-after"] == "1" and refused.error and probe == 200 and statuses == [200, 200, 429]


def test_answers_say_how_they_may_be_used():
  headers = get(app_of(Fake()), "/v1/models").headers
  assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_a_websocket_is_closed():
  sent = []
  async def send(message):
    sent.append(message)
  asyncio.run(app_of(Fake())({"type": "websocket"}, None, send))
  assert sent == [{"type": "websocket.close", "code": 1008}]


def test_readiness_and_health():
  model = Fake()
  app = app_of(model)
  assert get(app, "/ready").status == get(app, "/health").status == 200
  model.is_ready = False
  assert get(app, "/ready").status == 503 and get(app, "/health").status == 200
  model.is_ready, app.context.lifecycle.draining = True, True
  assert get(app, "/ready").status == 503 and get(app, "/health").status == get(app, "/metrics").status == 200
  refused = post(app, "/v1/completions", BODY)
  assert refused.status == 503 and int(refused.headers["retry-after"]) > 0 and refused.error["type"] == "server_error"
