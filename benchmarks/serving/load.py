"""Mixed load on one server: streams, whole answers, beginnings that are shared, vectors, clients that leave.

The server is a process of its own, with a model of 2 layers and width 32 and 8 slots; as many clients ask one thing
after the other, for MINUTES.

  load_growth          MiB that the process has more at the end than after the first tenth of the time
  load_recompilations  programs that were compiled meanwhile
  load_differences     answers, greedy and seeded, that are not what the engine gives alone for the same prompt, of all
                       that were compared: one of every ten

    python -m benchmarks.serving.load [--minutes=60] [--dry_run]
"""

import argparse
import collections
from collections.abc import Iterator
from concurrent import futures
import http.client
import json
import pathlib
import random
import threading
import time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.serving import fuzz, server

CLIENTS, SLOTS, COMPARED = 8, 8, 10
COMMAND = "python -m benchmarks.serving.load"


def rows(directory: pathlib.Path, arguments: argparse.Namespace) -> Iterator[Row]:
  seconds, answers, counts = 60 * arguments.minutes, list[tuple[dict[str, Any], str]](), collections.Counter[str]()
  flags = f"--slots={SLOTS}", "--max_queue=64", "--prefix_cache_mib=16"
  with server.serving(directory, *flags) as one, futures.ThreadPoolExecutor(CLIENTS) as pool:
    end = threading.Event()
    clients = [pool.submit(client, one, number, end, answers, counts) for number in range(CLIENTS)]
    time.sleep(seconds / 10)
    before = one.memory
    time.sleep(seconds * 9 / 10)
    end.set()
    for each in clients:
      each.result()
    if left := fuzz.left(one):
      raise RuntimeError(f"{left:.0f} requests of clients that are gone still have their places")
    print(f"{dict(counts)}, memory {before:.1f} MiB, then {one.memory:.1f} MiB", flush=True)
    yield Row("serving/load_growth", one.memory - before, "MiB", goal="value <= 64")
    yield Row("serving/load_recompilations", one.metric("gpt4x_compilations_total"), "programs", goal="value <= 0")
  different = harness.in_a_process(differences, str(directory), answers)
  yield Row("serving/load_differences", different, f"of {len(answers):,} answers", goal="value <= 0")


def client(one: server.Server, number: int, end: threading.Event, answers: list[tuple[dict[str, Any], str]],
           counts: collections.Counter[str]) -> None:
  """Asks until the end; keeps some of the answers with their requests."""
  draw = random.Random(number)
  beginnings = server.texts(4, 200, seed=1)
  for asked in range(10**9):
    if end.is_set():
      return
    text = server.texts(1, draw.randrange(150), seed=draw.randrange(10**9))[0]
    body = {"model": "model", "prompt": draw.choice([text, draw.choice(beginnings) + text]),
            "max_tokens": draw.randrange(1, 60), "temperature": draw.choice([0, 1]), "seed": draw.randrange(1000),
            "stream": draw.random() < 0.5}
    kind = draw.choices(["completion", "vectors", "leaves"], [8, 1, 1])[0]
    if kind == "leaves":
      fuzz.leave(one.port, draw)
    elif kind == "vectors":
      posted(one, "/v1/embeddings", {"model": "model", "input": [text or "a"]})
    else:
      found = written(posted(one, "/v1/completions", body), bool(body["stream"]))
      if not asked % COMPARED:
        answers.append((body, found))
    counts[kind] += 1


def posted(one: server.Server, path: str, body: dict[str, Any]) -> bytes:
  connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=300)
  connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
  response = connection.getresponse()
  content = response.read()
  connection.close()
  if response.status != 200:
    raise RuntimeError(f"{path} {response.status}: {content[:500]!r}")
  return content


def written(content: bytes, stream: bool) -> str:
  """The text of an answer."""
  events = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: {")] if stream else [content]
  return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def differences(directory: str, answers: list[tuple[dict[str, Any], str]]) -> int:
  """How many of the answers the engine does not give, each prompt alone; the first of them are printed."""
  from gpt4x.commands import reading
  from gpt4x.data import vocabularies
  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling
  from gpt4x.inference.text import Text
  from gpt4x.partitioning import Partitioner
  experiment, count, most = reading.saved_experiment(directory, data=False), 0, 60
  params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1))[1]
  vocabulary = vocabularies.load(directory)
  engines = {temperature: Engine(experiment.language_model, experiment.decoding_window(), vocabulary.eos_id,
                                 vocabulary.vocab_size, Sampling(temperature), chunk_length=most)
             for temperature in (0, 1)}
  for body, found in answers:
    ids = vocabulary.encode(body["prompt"])
    text = Text(vocabulary, ids, body["max_tokens"])
    piece = next(engines[body["temperature"]](params, [ids], most, body["seed"]))
    text.add(piece.tokens[0], piece.log_probs[0])
    if text.text != found:
      count += 1
      if count <= 3:
        print(f"{body}: {found!r} in place of {text.text!r}", flush=True)
  return count


if __name__ == "__main__":
  server.main(COMMAND, rows, fuzz.tiny, minutes=60.0)
