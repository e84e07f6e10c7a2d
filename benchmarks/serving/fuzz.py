"""Asks a server for things at random, over loopback: none may crash it, hang, or get a status of 500 and above.

  python -m benchmarks.serving.fuzz --requests=20000 --seed=1

Half are good requests with fields changed, the others mutations of bytes: of the body, or of the whole request. One in
ten clients leaves without waiting. At the end every slot has come back and the memory is what it was after the first
tenth. It prints a row, serving/fuzz_crashes, and the first request of each fault; it exits with 1 if there is one.
The model is the tests' own, which answers at once: what is tried is the HTTP side.
"""

import argparse
import collections
import json
import pathlib
import random
import resource
import socket
import sys
from typing import Any

from benchmarks import results
from benchmarks.harness import Row
from tests.serving.asking import app_of, serving
from tests.serving.fake import Fake

SECONDS = 20
GOOD = {
    "/v1/completions": {"model": "fake", "prompt": "ab", "max_tokens": 3, "temperature": 1.0, "n": 1, "stream": False,
                        "logprobs": 2, "stop": ["x"], "echo": True, "logit_bias": {"3": 1}},
    "/v1/chat/completions": {"model": "fake", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 3,
                             "logprobs": True, "top_logprobs": 3, "stream": True,
                             "stream_options": {"include_usage": True}},
    "/v1/embeddings": {"model": "fake", "input": ["ab", [1, 2]], "encoding_format": "base64"},
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


def asked(port: int, data: bytes, leaves: bool) -> str:
  """What came of it: a status, `closed`, `left` or `hang`."""
  with socket.create_connection(("127.0.0.1", port), SECONDS) as one:
    found = b""
    try:
      one.sendall(data)
      if leaves:
        return "left"
      while part := one.recv(2**16):
        found += part
    except TimeoutError:
      return "hang"
    except OSError:
      pass  # Refused before all of it was sent.
  return found[9:12].decode("latin-1") if found else "closed"


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--requests", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--output", type=pathlib.Path, help="a results.json to put the row into")
  arguments = parser.parse_args()
  model, counts, faults = Fake(slots=8, max_queue=1000), collections.Counter[str](), 0
  app = app_of(model, header_seconds=0.1, body_seconds=0.1)  # Short, as many requests are cut off.
  before = 0
  with serving(app) as (_, port):
    for number in range(arguments.requests):
      rng = random.Random(f"{arguments.seed} {number}")
      data = request(rng)
      outcome = asked(port, data, rng.random() < 0.1)
      if outcome == "hang" or outcome >= "500" and outcome[:1] == "5":
        faults += 1
        if not counts[outcome]:
          print(f"request {number}: {outcome}: {data!r}")
      counts[outcome] += 1
      model.submitted.clear()
      model.conversations.clear()
      if number == arguments.requests // 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.wait_idle()
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  print(dict(counts), f"memory grew by {grown:.1f} MiB after the first tenth")
  row = Row("serving/fuzz_crashes", faults, f"of {arguments.requests} requests", goal="value <= 0")
  print(row)
  if arguments.output:
    results.merge(arguments.output, [row])
  return faults > 0


if __name__ == "__main__":
  sys.exit(main())
