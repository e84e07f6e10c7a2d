"""A server on a port of loopback: slow clients, those that do not read, its end, and its signals."""

import http.client
import json
import os
import pathlib
import queue
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from gpt4x.errors import UserError
from gpt4x.serving.contract import Delta, Finished, Token
from gpt4x.serving.server import Server
from tests.serving.asking import app_of, connect, JSON, serving
from tests.serving.fake import Fake, SECONDS

BODY = {"model": "fake", "prompt": "a", "max_tokens": 5}
REQUEST = (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
           b"content-length: %d\r\n\r\n")


def request(body: dict) -> bytes:
  data = json.dumps(body).encode()
  return REQUEST % len(data) + data


def until_closed(port: int, *sent: bytes) -> bytes:
  """What comes until the server closes."""
  with socket.create_connection(("127.0.0.1", port), SECONDS) as one:
    for part in sent:
      one.sendall(part)
    found = b""
    try:
      while part := one.recv(2**16):
        found += part
    except ConnectionResetError:
      pass
    return found


def completed(port: int, connection: http.client.HTTPConnection | None = None) -> bytes:
  connection = connection or connect(port)
  connection.request("POST", "/v1/completions", json.dumps(BODY), JSON)
  response = connection.getresponse()
  assert response.status == 200
  return response.read()


def test_a_connection_is_used_again():
  with serving(app_of(Fake())) as (_, port):
    connection = connect(port)
    assert [b"<" in completed(port, connection) for _ in range(3)] == [True] * 3


def test_a_stream_comes_in_parts():
  model = Fake()
  with serving(app_of(model)) as (_, port):
    model.hold()
    connection = connect(port)
    connection.request("POST", "/v1/chat/completions", json.dumps({
        "model": "fake", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 3}), JSON)
    response = connection.getresponse()  # While the model is held: it is not kept back until the end.
    assert b'"role":"assistant"' in response.readline()
    model.hold(False)
    assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("sent", [
    b"", b"GET /hea", b"GET /health HTTP/1.1\r\nhost: localh", b"GET /health HTTP/1.1\r\n"])
def test_headers_that_do_not_come(sent):
  with serving(app_of(Fake(), header_seconds=0.05)) as (_, port):
    assert until_closed(port, sent) == b""
    completed(port)


def test_headers_that_drip_put_off_nothing():
  """A byte now and then does not keep a connection: the client sends one more whenever nothing has come."""
  app = app_of(Fake(), header_seconds=0.05)
  with serving(app) as (_, port), socket.create_connection(("127.0.0.1", port), SECONDS) as one:
    one.sendall(b"GET /health HTTP/1.1\r\nx: ")
    with pytest.raises(OSError):
      while True:
        one.sendall(b"x")
        if select.select([one], [], [], 0.005)[0] and one.recv(1) == b"":
          raise ConnectionResetError


def test_headers_that_do_not_come_after_an_answer():
  with serving(app_of(Fake(), header_seconds=0.05)) as (_, port):
    found = until_closed(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /he")
    assert found.startswith(b"HTTP/1.1 200") and found.count(b"HTTP/1.1") == 1


def test_a_body_that_does_not_come():
  with serving(app_of(Fake(), body_seconds=0.05)) as (_, port):
    found = until_closed(port, REQUEST % 1000 + b'{"model"')
    assert found.startswith(b"HTTP/1.1 408") and b'"error"' in found


def test_one_huge_header():
  with serving(app_of(Fake(), max_headers=2048)) as (_, port):
    for end in (b"\r\n\r\n", b""):  # At once, and one whose end does not come.
      found = until_closed(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 4096 + end)
      assert found.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    completed(port)


@pytest.mark.parametrize("line", [
    b"GET /%b HTTP/1.1" % (b"x" * 20_000), b"GET /health?%b HTTP/1.1" % (b"x" * 20_000),
    b"%b /health HTTP/1.1" % (b"X" * 20_000),
    b"GET /health HTTP/1.1\r\n" + b"\r\n".join(b"x%d: y" % number for number in range(2000))])
def test_a_long_line_or_many_headers(line):
  with serving(app_of(Fake())) as (_, port):
    found = until_closed(port, line + b"\r\nhost: localhost\r\n\r\n")
    assert found == b"" or found.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))  # Or it was still being sent.
    completed(port)


@pytest.mark.parametrize("target", [
    b"http://localhost/v1/models", b"//localhost/v1/models", b"/%76%31/models", b"/v1%2fmodels",
    b"/health/%2e%2e/v1/models", b"/health%00/v1/models", b"/health#/v1/models", b"localhost:80", b"*",
    b"/v1/models?/health", b"\\v1\\models"])
def test_no_target_leads_past_the_key(target):
  with serving(app_of(Fake(), keys=(b"k" * 20,))) as (_, port):
    found = until_closed(port, b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert found.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400")) and b'"fake"' not in found


def test_a_chunked_body_without_a_length():
  data = json.dumps(BODY).encode()
  chunked = REQUEST.replace(b"content-length: %d", b"transfer-encoding: chunked\r\nconnection: close")
  chunk = lambda part: b"%x\r\n%b\r\n" % (len(part), part)
  with serving(app_of(Fake(), max_body=1000)) as (_, port):
    assert until_closed(port, chunked, chunk(data[:9]), chunk(data[9:]), b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert until_closed(port, chunked, *[chunk(b" " * 300)] * 4).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx y: z\r\n\r\n",
                                  b"GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"])
def test_what_is_no_http(sent):
  with serving(app_of(Fake())) as (_, port):
    found = until_closed(port, sent)
    assert found.startswith(b"HTTP/1.1 400") and b'"error"' in found
    completed(port)


def test_what_is_no_http_behind_a_request(capfd):
  """Before its answer, while that is a stream, and after it."""
  model = Fake()
  with serving(app_of(model)) as (_, port):
    for more in ({}, {"stream": True}):
      model.hold()
      with socket.create_connection(("127.0.0.1", port), SECONDS) as one:
        one.sendall(request(BODY | more))
        model.wait_for(lambda: model.running == 1)
        one.sendall(b"\x00\r\n\r\n")
      model.hold(False)
      model.wait_idle()
    data = request(BODY).replace(b"host: localhost", b"host: localhost\r\nconnection: close")
    assert until_closed(port, data + b"\x00\r\n\r\n").startswith(b"HTTP/1.1 ")
    completed(port)
  assert capfd.readouterr().err == ""


def test_connections_are_limited():
  with serving(app_of(Fake(), max_connections=2)) as (_, port):
    first, second = connect(port), connect(port)
    completed(port, first)
    completed(port, second)
    found = until_closed(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert found == b"" or (found.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in found and b'"error"' in found)
    completed(port, first)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects(stream):
  model = Fake(slots=1)
  with serving(app_of(model)) as (_, port):
    model.hold()
    clients = [socket.create_connection(("127.0.0.1", port), SECONDS) for _ in range(3)]
    for client in clients:
      client.sendall(request(BODY | {"stream": stream}))
    model.wait_for(lambda: model.running == 1 and model.waiting == 2)
    for client in clients:
      client.close()
    model.wait_idle()


def test_a_client_that_never_reads_loses_its_slot():
  """Once what the system takes for it is full, the time runs."""
  model = Fake(slots=1, answer=lambda _: b"x" * 10**6)
  with serving(app_of(model, send_seconds=0.05, max_pending=10**7, max_tokens=10**6)) as (_, port):
    with socket.socket() as client:
      client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
      client.connect(("127.0.0.1", port))
      client.sendall(request(BODY | {"stream": True, "max_tokens": 10**6}))
      model.wait_for(lambda: model.running == 1)
      model.wait_idle()
      assert model.drawn < 10**6
    model.answer = lambda _: b"y"
    completed(port)


class Long(Fake):
  """All at once, and more than a connection holds that nobody reads."""

  def _events(self, request):
    yield Delta("x" * 10**7, [Token(1, -0.5)])
    yield Finished("stop", 1, 1, 0)


def test_a_client_that_never_reads_a_whole_answer_is_given_up():
  """The log has its line once nothing of the request is left."""
  lines = queue.Queue()
  app = app_of(Long(), send_seconds=0.05, log=lines.put)
  with serving(app) as (_, port), socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", port))
    client.sendall(request(BODY))
    assert lines.get(timeout=SECONDS).startswith("POST /v1/completions 200 ")
    assert app.context.lifecycle.requests == 0


def test_the_end_waits_for_streams_and_refuses_others():
  model = Fake()
  app = app_of(model, grace=SECONDS)
  with serving(app) as (server, port):
    model.hold()
    one, other = connect(port), connect(port)
    one.request("POST", "/v1/completions", json.dumps(BODY | {"stream": True}), JSON)
    response = one.getresponse()
    other.request("GET", "/ready", headers={"host": "localhost"})
    assert other.getresponse().read() == b'{"status":"ready"}'
    server.end()
    while True:  # The end begins on the server's own thread.
      other.request("GET", "/ready", headers={"host": "localhost"})
      if (ready := other.getresponse()).read() and ready.status == 503:
        break
    other.request("POST", "/v1/completions", json.dumps(BODY), JSON)
    refused = other.getresponse()
    assert refused.status == 503 and refused.headers["retry-after"] and b'"error"' in refused.read()
    model.hold(False)
    text = response.read()
    assert b'"finish_reason":"length"' in text and text.endswith(b"data: [DONE]\n\n")


def test_the_end_of_grace_is_an_error_in_the_stream():
  model = Fake()
  with serving(app_of(model, grace=0.05)) as (server, port):
    model.hold()
    stream, whole = connect(port), connect(port)
    for connection, more in ((stream, {"stream": True}), (whole, {})):
      connection.request("POST", "/v1/completions", json.dumps(BODY | more), JSON)
    model.wait_for(lambda: model.running == 2)
    server.end()
    response = stream.getresponse()
    *_, error, done, _ = response.read().split(b"\n\n")
    assert b"shutting down" in error and done == b"data: [DONE]"
    assert whole.getresponse().status == 500
    model.wait_idle()


def test_a_port_that_is_taken():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"--port={port}: Address already in use"):
      Server(app_of(Fake()), "127.0.0.1", port).run_until_ended(print)


SERVE = """
from gpt4x.serving.app import build
from gpt4x.serving.server import Server
from gpt4x.serving.settings import Settings
from tests.serving.fake import Fake
model = Fake()
model.hold({held})
Server(build({{"fake": model}}, Settings(grace={grace}), print), "127.0.0.1", 0).run_until_ended(
    lambda host, port: print(port, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(sent):
  root = pathlib.Path(__file__).parents[2]
  server = subprocess.Popen([sys.executable, "-c", SERVE.format(held=True, grace=0.05)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(root)})
  timer = threading.Timer(SECONDS, server.kill)
  timer.start()
  try:
    port = int(server.stdout.readline())
    connection = connect(port)
    connection.request("POST", "/v1/completions", json.dumps(BODY | {"stream": True}), JSON)
    response = connection.getresponse()
    server.send_signal(sent)
    assert b"shutting down" in response.read()
    assert server.wait() == 0 and server.stderr.read() == b""
  finally:
    timer.cancel()
    server.kill()
    server.communicate()
