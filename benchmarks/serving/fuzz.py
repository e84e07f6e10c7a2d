"""Asks a server for things at random, over loopback: none may crash it, hang, or get a status of 500 and above.

The server is a process of its own, with a model of 2 layers and width 32. Half of the requests are good ones with
fields changed, the others mutations of bytes: of the body, or of the whole request. One in ten clients leaves without
waiting. Overload, which says so, is no fault. It prints the first request of each kind of fault.

  fuzz_crashes  faults of so many requests
  left          slots and places in the queue that are not free after 1,000 clients have left, each at any moment
  stuck         connections and slots that are not free a minute after 56 clients whose headers come a byte at a time,
                and 8 that never read their streams; one that reads is answered meanwhile
  fuzz_growth   MiB that the process has more at the end than after the first tenth

    python -m benchmarks.serving.fuzz [--requests=20000] [--seed=1] [--dry_run]
"""

import argparse
import collections
from collections.abc import Iterator
from concurrent import futures
import contextlib
import json
import pathlib
import random
import socket
import time
from typing import Any

from benchmarks.harness import Row
from benchmarks.serving import server

SECONDS, PATIENCE, CLIENTS, LEAVING = 20.0, 0.5, 8, 1000
SLOW, SILENT, STUCK = 56, 8, 60.0
COMMAND = "python -m benchmarks.serving.fuzz"
GOOD = {
    "/v1/completions": {"model": "model", "prompt": "ab", "max_tokens": 3, "temperature": 1.0, "n": 1, "stream": False,
                        "logprobs": 2, "stop": ["x"], "echo": True, "logit_bias": {"3": 1}},
    "/v1/chat/completions": {"model": "model", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 3,
                             "logprobs": True, "top_logprobs": 3, "stream": True,
                             "stream_options": {"include_usage": True}},
    "/v1/embeddings": {"model": "model", "input": ["ab", [1, 2]], "encoding_format": "base64"},
}
ODD = [None, True, False, 0, -1, 1, 1e9, 1e308, -1e308, float("nan"), float("inf"), 2**64, 10**400, "", "a", "\ud800",
       "\x00", "é" * 50, [], {}, [[]], [None], ["a", 1], {"a": {}}, [[1], "a"], {"1": 1}, "[" * 2000, [-1], [2**40]]


def changed(value: Any, rng: random.Random) -> Any:
  """With some part of it odd."""
  if isinstance(value, dict) and value and rng.random() < 0.9:
    key = rng.choice([*value, "seed", "top_p", "top_k", "tools", "unknown", "stop", "n"])
    return value | {key: changed(value.get(key), rng)}
  if isinstance(value, list) and value and rng.random() < 0.5:
    place = rng.randrange(len(value))
    return [*value[:place], changed(value[place], rng), *value[place + 1:]]
  return rng.choice(ODD)


def mutated(data: bytes, rng: random.Random) -> bytes:
  for _ in range(rng.randint(1, 4)):
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([0, 1, 1, 2, 8, 64]))
    data = data[:start] + rng.randbytes(rng.choice([0, 1, 1, 2, 8])) * rng.choice([1, 1, 1, 50]) + data[end:]
  return data


def request(rng: random.Random) -> bytes:
  path, body = rng.choice(list(GOOD.items()))
  for _ in range(rng.randint(0, 3)):
    body = changed(body, rng)
    body = body if isinstance(body, dict) else GOOD[path]
  data = json.dumps(body).encode()
  kind = rng.random()
  if kind < 0.25:
    data = mutated(data, rng)
  lines = [b"POST %b HTTP/1.1" % path.encode(), b"host: localhost", b"content-type: application/json",
           b"connection: close"]
  if rng.random() < 0.3:
    whole = b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)])
  else:
    whole = b"\r\n".join([*lines, b"content-length: %d" % len(data), b"", data])
  return mutated(whole, rng) if kind > 0.75 else whole


def rows(directory: pathlib.Path, arguments: argparse.Namespace) -> Iterator[Row]:
  with server.serving(directory, "--max_queue=1000") as one:
    yield from rows_of(one, arguments.requests, arguments.seed)


def rows_of(one: server.Server, requests: int, seed: int) -> Iterator[Row]:
  counts, before = collections.Counter[str](), 0.0
  draws = [random.Random(f"{seed} {number}") for number in range(requests)]
  with futures.ThreadPoolExecutor(CLIENTS) as pool:
    for start in range(0, requests, tenth := -(-requests // 10)):
      sent = [(request(rng), rng.random() < 0.1) for rng in draws[start:start + tenth]]
      for (data, _), outcome in zip(sent, pool.map(lambda each: asked(one.port, *each), sent)):
        if is_fault(outcome) and not counts[outcome]:
          print(f"{outcome}: {data!r}", flush=True)
        counts[outcome] += 1
      before = before or one.memory
    print(dict(counts), flush=True)
    yield Row("serving/fuzz_crashes", sum(count for outcome, count in counts.items() if is_fault(outcome)),
              f"of {requests:,} requests", goal="value <= 0")
    yield Row("serving/fuzz_growth", one.memory - before, "MiB", goal="value <= 64")
    list(pool.map(lambda number: leave(one.port, random.Random(f"{seed} leaves {number}")), range(LEAVING)))
  yield Row("serving/left", left(one), f"of {LEAVING:,} clients", goal="value <= 0")
  yield Row("serving/stuck", stuck(one), f"of {SLOW + SILENT} clients", goal="value <= 0")


def is_fault(outcome: str) -> bool:
  return outcome == "hang" or outcome[:1] == "5" and outcome != "503"


def asked(port: int, data: bytes, leaves: bool = False) -> str:
  """What came of it: a status, `closed`, `left` or `hang`."""
  with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
    found = b""
    try:
      one.sendall(data)
      if leaves:
        return "left"
      with contextlib.suppress(TimeoutError):  # It may wait for more of the request, of which there is none.
        while part := one.recv(2**16):
          found += part
        return found[9:12].decode("latin-1") if found else "closed"
      if not found:
        one.shutdown(socket.SHUT_WR)
      one.settimeout(SECONDS)
      while part := one.recv(2**16):
        found += part
    except TimeoutError:
      return "hang"
    except OSError:
      pass  # Refused before all of it was sent.
  return found[9:12].decode("latin-1") if found else "closed"


def leave(port: int, rng: random.Random) -> None:
  """A client of a good request that goes: at once, while it waits, or while it reads."""
  data = posted({"model": "model", "prompt": "a" * rng.randrange(300), "max_tokens": rng.randrange(1, 500),
                 "n": rng.randrange(1, 4), "stream": rng.random() < 0.5, "logit_bias": {"1": -100}})
  with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS) as one:
    one.sendall(data[:rng.choice([len(data), rng.randrange(len(data))])])
    one.settimeout(max(1e-3, rng.expovariate(5)))
    while one.recv(rng.choice([1, 100, 10_000])):
      pass


def left(one: server.Server) -> float:
  """Requests that still run or wait after a while in which nobody asks."""
  deadline = time.monotonic() + SECONDS
  while (count := one.metric("gpt4x_running") + one.metric("gpt4x_waiting")) and time.monotonic() < deadline:
    time.sleep(0.1)
  return count


def stuck(one: server.Server) -> float:
  """Connections and slots that clients still have who have had their time, and who did not close."""
  with contextlib.ExitStack() as clients:
    slow = [clients.enter_context(socket.create_connection(("127.0.0.1", one.port))) for _ in range(SLOW)]
    for each in slow:
      each.sendall(b"GET /health HTTP/1.1\r\nx: ")
    for _ in range(SILENT):
      silent(clients.enter_context(socket.socket()), one.port)
    if (status := one.ask("ab", 3).status) != 200:
      raise RuntimeError(f"while others read nothing, a good request has {status}")
    deadline = time.monotonic() + STUCK
    while one.connections and time.monotonic() < deadline:
      for each in slow:
        with contextlib.suppress(OSError):  # It was closed.
          each.sendall(b"x")
      time.sleep(0.5)
    return one.connections + left(one)


def silent(client: socket.socket, port: int) -> None:
  """Asks for a longer stream than connections hold that nobody reads."""
  client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
  client.connect(("127.0.0.1", port))
  client.sendall(posted({"model": "model", "prompt": "", "max_tokens": 16_384, "stream": True, "logprobs": 5,
                         "logit_bias": {"1": -100}}))


def posted(body: dict[str, Any]) -> bytes:
  data = json.dumps(body).encode()
  head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d"
  return head % len(data) + b"\r\n\r\n" + data


def tiny(directory: pathlib.Path) -> None:
  """A small model directory, with the template of conversations."""
  from gpt4x import run_directory
  from gpt4x.data.chat_template import Template
  server.write_model(directory, **server.TINY)
  (directory / run_directory.CHAT_TEMPLATE).write_text(Template().text)


if __name__ == "__main__":
  server.main(COMMAND, rows, tiny, requests=20_000, seed=1)
