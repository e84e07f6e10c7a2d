"""Kills runs and damages checkpoints at random, and compares what comes of it with a run that nobody disturbed.

    python -m benchmarks.campaigns kills --count=20 --seed=0
    python -m benchmarks.campaigns kills --store=gs --count=30
    python -m benchmarks.campaigns damages --count=60 --seed=0

`kills` starts tiny trainings and sends SIGKILL, SIGTERM once or twice, or Ctrl-C once or twice at random moments of
their start, steps, evaluations, saves and end; the same command then goes on. When a run is through, its metrics,
TensorBoard's events and its last checkpoint have to be those of the undisturbed run, bit for bit. With a store, the
trainings that are killed (by SIGKILL alone) are in a bucket of an emulator. `damages` changes
random files of random checkpoints, and each time the newest whole one has to come back exactly, or one line tells.
"""

import argparse
from collections import Counter
import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from gpt4x import storage
from tests.integration import corpus
from tests.integration.faults import outcome, STRAIGHT
from tests.storage import emulators

STEPS = 240
NOTICES = {"SIGKILL": [signal.SIGKILL], "SIGTERM": [signal.SIGTERM], "SIGTERM twice": [signal.SIGTERM] * 2,
           "Ctrl-C": [signal.SIGINT], "Ctrl-C twice": [signal.SIGINT] * 2}
# Exit statuses after each; negative ones are for notices that come before Python or the run listens.
ALLOWED = {"SIGKILL": {-9}, "SIGTERM": {75, -15}, "SIGTERM twice": {75, -15}, "Ctrl-C": {130, -2, 1},
           "Ctrl-C twice": {130, -2, 1}}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("campaign", choices=["kills", "damages"])
  parser.add_argument("--count", type=int, default=20, help="kills or damages (default: %(default)s)")
  parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
  parser.add_argument("--store", choices=emulators.STORES, help="of the killed trainings (default: this machine)")
  arguments = parser.parse_args()
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-"))
    work = pathlib.Path(folder)
    os.environ["GPT4X_DATA_DIR"] = str(work / "data")
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(work / "jax")}
    corpus.write(work / "text")
    if arguments.store:
      os.environ |= stack.enter_context(emulators.running(arguments.store))
      emulators.make_bucket(arguments.store)
    campaign = {"kills": functools.partial(kills, store=arguments.store), "damages": damages}[arguments.campaign]
    print(campaign(work, arguments.count, random.Random(arguments.seed)))


def start(work: pathlib.Path, model_dir: pathlib.Path, **bindings: Any) -> subprocess.Popen:
  """A training in a process of its own, whose standard error is in a file that has its directory's name."""
  flags = corpus.flags(work / "text", model_dir, TRAIN_STEPS=STEPS, **bindings)
  with (work / f"{model_dir.name}.log").open("ab") as log:
    return subprocess.Popen([sys.executable, "-c", STRAIGHT, *flags], stderr=log, stdout=subprocess.DEVNULL)


def kills(work: pathlib.Path, count: int, draw: random.Random, store: str | None = None) -> str:
  """Kills trainings so often; returns a line about what was counted."""
  straight, began = work / "straight", time.monotonic()
  assert start(work, straight).wait() == 0, (straight.with_suffix(".log")).read_text()
  whole = time.monotonic() - began
  began = time.monotonic()
  assert start(work, work / "again").wait() == 0
  whole = min(whole, time.monotonic() - began)  # Without what is compiled and tokenized once.
  expected = outcome(straight, STEPS)
  assert outcome(work / "again", STEPS) == expected, "two undisturbed runs differ"

  done, statuses, runs = 0, Counter[str](), 0
  while done < count:
    folder = storage.path(f"{store}://bucket/runs") if store else work
    model_dir, runs, ended = folder / f"run{runs}", runs + 1, False
    log = work / f"{model_dir.name}.log"
    while not ended and done < count:
      process = start(work, model_dir)
      notice = "SIGKILL" if store else draw.choice(list(NOTICES))
      # A run is short beside its start, so most notices wait for some of its lines.
      if draw.random() < 0.75:
        begun = number_of_lines(model_dir)
        wanted = draw.randint(begun + 1, len(expected["metrics"]) + 1)
        while process.poll() is None and number_of_lines(model_dir) < wanted:
          time.sleep(0.05 if store else 0.002)
        time.sleep(draw.uniform(0, 0.5) if store else 0)  # Lines come to a bucket just before a checkpoint.
      else:
        time.sleep(draw.uniform(0, whole))
      for number in NOTICES[notice]:
        process.send_signal(number)
        time.sleep(draw.choice([0, 0.05, 0.3]))
      status = process.wait()
      ended = status == 0
      done += not ended
      statuses[f"{notice}: {status}"] += 1
      assert ended or status in ALLOWED[notice], (notice, status, log.read_text()[-3000:])
    if not ended:
      assert start(work, model_dir).wait() == 0, log.read_text()[-3000:]
    copy = emulators.copy_of(model_dir, work / "copy") if store else model_dir
    found = outcome(copy, STEPS)
    for name in expected:
      assert found[name] == expected[name], f"{model_dir}: the {name} differ from those of the undisturbed run"
    shutil.rmtree(copy)
    print(f"{done} kills over {runs} runs so far", flush=True)
  return f"{done} kills over {runs} runs, all as the undisturbed one: " + ", ".join(
      f"{name} ({times})" for name, times in sorted(statuses.items()))


def number_of_lines(model_dir: pathlib.Path) -> int:
  return (storage.read(model_dir / "metrics.jsonl") or b"").count(b"\n")


DAMAGES = {
    "truncated": lambda content, draw: content[:draw.randrange(len(content))],
    "a bit": lambda content, draw: flipped(content, draw.randrange(8 * len(content))),
    "zeros": lambda content, draw: bytes(len(content)),
    "longer": lambda content, draw: content + b"\0",
    "missing": None,
}


def flipped(content: bytes, bit: int) -> bytes:
  changed = bytearray(content)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


def damages(work: pathlib.Path, count: int, draw: random.Random) -> str:
  """Damages checkpoints so often; returns a line about what was counted."""
  import jax
  import numpy as np

  from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
  from gpt4x.errors import UserError
  straight = work / "straight"
  assert start(work, straight, CheckpointConfig__keep=4).wait() == 0, straight.with_suffix(".log").read_text()
  steps = Checkpoints(str(straight)).steps()
  record = json.loads((straight / "checkpoints" / str(STEPS) / "checkpoint.json").read_text())["record"]
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes: dict[str, Any] = {}
  for name, (dtype, shape) in record["leaves"].items():
    *parents, last = name.split("/")
    node = shapes
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = jax.ShapeDtypeStruct(shape, dtype, sharding=one)
  whole = {step: jax.tree.map(np.asarray, Checkpoints(str(straight)).restore(shapes, step)[1]) for step in steps}

  counted = Counter[str]()
  for number in range(count):
    model_dir = shutil.copytree(straight, work / f"damaged{number}")
    hit = set(draw.sample(steps, draw.randint(1, len(steps))))
    done = []
    for step in hit:
      # Orbax's own notes at the top are not read; all else is.
      files = sorted(path for path in (model_dir / "checkpoints" / str(step)).rglob("*") if path.is_file()
                     and path.name not in ("_CHECKPOINT_METADATA", "commit_success.txt") and path.stat().st_size)
      path, kind = draw.choice(files), draw.choice(list(DAMAGES))
      done.append((step, kind, str(path.relative_to(model_dir))))
      before = path.read_bytes()
      if DAMAGES[kind] is None:
        path.unlink()
      else:
        path.write_bytes(DAMAGES[kind](before, draw))
        if path.read_bytes() == before:
          hit = hit - {step}  # Zeros before, zeros after.
    left = max(set(steps) - hit, default=None)
    writes = draw.choice([None, CheckpointConfig()])
    try:
      found, state, _ = Checkpoints(str(model_dir), writes).restore(shapes)
      assert found == left, (done, found, left)
      jax.tree.map(np.testing.assert_array_equal, state, whole[found])
      newer = {str(step) for step in hit if step > found}
      aside = {path.name.removesuffix(".damaged") for path in (model_dir / "checkpoints").glob("*.damaged")}
      assert aside == (newer if writes else set()), (done, aside)
      counted["fell back" if newer else "took the newest, which was whole"] += 1
    except UserError as error:
      assert left is None and "\n" not in str(error) and "every checkpoint" in str(error), (done, error)
      counted["told that all are damaged"] += 1
    shutil.rmtree(model_dir)
  return f"{count} damages: " + ", ".join(f"{name} ({times})" for name, times in sorted(counted.items()))


if __name__ == "__main__":
  main()
