"""Streams of one server: a decoder of 12 layers and width 512 with 640 positions in view, 16 slots, two cores.

Clients are threads of another process on the same cores. Prompts have 64 bytes unless it is said, no two begin alike,
and 128 tokens are drawn, greedy. Medians of the rounds, sides in turns.

  streams16           tokens/s of 16 streams together; the peer is one stream alone
  of_offline          the same; the peer is the engine alone on the same 16 prompts, in a process of its own
  time_per_token_p99  milliseconds, over 96 requests of 8 clients, each asking again once it has its answer; the peer is
                      the median
  first_token         milliseconds to the first text of a prompt of 512 bytes on an idle server; the peer is the engine
                      that reads the prompt alone
  prefix_hit          the same where the prompt was read before; the peer is where it was not
  overload_ms         milliseconds to the slowest of 32 answers `429` while all slots and the queue are full
  recompilations      programs that were compiled while all this was asked
  speculation         tokens/s of one stream with --speculate on a text that repeats itself; the peer is without

    python -m benchmarks.serving.streams [--rounds=5] [--dry_run]
"""

import argparse
from collections.abc import Iterator
from concurrent import futures
import pathlib
import statistics
import threading
import time
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.serving import server

NEW, SLOTS, LONG = 128, 16, 512
COMMAND = "python -m benchmarks.serving.streams"


def rows(directory: pathlib.Path, arguments: argparse.Namespace) -> Iterator[Row]:
  offline = harness.Side(engine_alone, str(directory))
  offline.round()
  with server.serving(directory, "--max_queue=16") as one:
    one.ask_all(server.texts(SLOTS, 64, seed=99), 16)
    found = []
    for number in range(arguments.rounds):
      sixteen, _ = one.ask_all(server.texts(SLOTS, 64, seed=number), NEW)
      alone, _ = one.ask_all(server.texts(1, 64, seed=1000 + number), NEW)
      engine = offline.round()
      fresh, = server.texts(1, LONG, seed=2000 + number)
      first, again = one.ask(fresh, 2).first, one.ask(fresh, 2).first
      found.append({"sixteen": sixteen, "alone": alone, "first": 1000 * first, "again": 1000 * again,
                    "engine": engine["tokens"], "prefill": 1000 * engine["prefill"]})
    yield _compared("streams16", "tokens/s", found, "sixteen", "alone", "ratio >= 2")
    yield _compared("of_offline", "tokens/s", found, "sixteen", "engine", "ratio >= 0.85")
    yield _compared("first_token", "ms", found, "first", "prefill", "ratio <= 1.2")
    yield _compared("prefix_hit", "ms", found, "again", "first", "ratio <= 0.5")
    times = np.array([1000 * answer.per_token for answer in loaded(one, 8, 12)])
    worst, middle = np.percentile(times, 99), np.median(times)
    yield Row("serving/time_per_token_p99", float(worst), "ms", float(middle), float(worst / middle), goal="ratio <= 2")
    yield Row("serving/overload_ms", 1000 * overloaded(one), "ms", goal="value <= 50")
    yield Row("serving/recompilations", one.metric("gpt4x_compilations_total"), "programs", goal="value <= 0")
  offline.close()
  yield speculation(directory, arguments.rounds)


def _compared(name: str, unit: str, found: list[dict[str, float]], ours: str, peer: str, goal: str) -> Row:
  ratio = statistics.median(one[ours] / one[peer] for one in found)
  return Row(f"serving/{name}", harness.median(found, ours), unit, harness.median(found, peer), ratio, goal=goal)


def engine_alone(directory: str) -> Any:
  """Rounds of the engine on 16 prompts, and of reading a long one."""
  import jax

  from gpt4x.commands import reading
  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(directory, data=False)
  params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1))[1]
  engine = Engine(experiment.language_model, server.WINDOW, None, 259, Sampling(0.0), never=[1])
  reader = Engine(experiment.language_model, server.WINDOW, None, 259, segment_length=64)
  ids = lambda text: [3 + byte for byte in text.encode()]
  prompts, (long, ) = [ids(text) for text in server.texts(SLOTS, 64, seed=7)], map(ids, server.texts(1, LONG, seed=8))
  read = lambda: jax.block_until_ready(reader.extend(params, reader.begin(params), long).logits)

  def round_() -> harness.Round:
    decoded = harness.timed(lambda: list(engine(params, prompts, NEW)))
    return {"tokens": SLOTS * NEW / decoded, "prefill": harness.timed(read)}

  round_()
  return round_


def loaded(one: server.Server, clients: int, requests: int) -> list[server.Answer]:
  """The answers to `requests` of each client in turn."""
  def client(number: int) -> list[server.Answer]:
    return [one.ask(text, NEW) for text in server.texts(requests, 64, seed=3000 + number)]

  with futures.ThreadPoolExecutor(clients) as pool:
    return [answer for answers in pool.map(client, range(clients)) for answer in answers]


def overloaded(one: server.Server) -> float:
  """Seconds to the slowest refusal while as many are asked as the server takes, and none of them ends."""
  full, threads = SLOTS + 16, []
  for text in server.texts(full, 64, seed=5000):
    threads.append(threading.Thread(target=one.ask, args=(text, 256), daemon=True))
    threads[-1].start()
  deadline = time.monotonic() + 60
  while one.metric("gpt4x_waiting") < 16:
    if time.monotonic() > deadline:
      raise RuntimeError("the queue did not fill")
    time.sleep(0.02)
  refused = [one.ask(text, 1) for text in server.texts(32, 64, seed=6000)]
  if {answer.status for answer in refused[:8]} != {429}:
    raise RuntimeError(f"answers while all is full: {[answer.status for answer in refused]}")
  for thread in threads:
    thread.join()
  return max(answer.first for answer in refused if answer.status == 429)


def speculation(directory: pathlib.Path, rounds: int) -> Row:
  """One stream whose model repeats itself, as greedy ones of random parameters do, and as text that quotes does."""
  text, found = server.texts(1, 64, seed=1)[0] * 4, []
  with server.serving(directory, "--speculate") as guessing, server.serving(directory) as plain:
    for _ in range(1 + rounds):
      found.append({"guessing": guessing.ask_all([text], 2 * NEW)[0], "plain": plain.ask_all([text], 2 * NEW)[0]})
  return _compared("speculation", "tokens/s", found[1:], "guessing", "plain", "ratio >= 1")


if __name__ == "__main__":
  server.main(COMMAND, rows, server.write_model, rounds=5)
