"""A server of a model with random parameters, and clients that time what they get."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import harness, run
from benchmarks.harness import Row

LAYERS, WIDTH, HEADS, MLP, WINDOW = 12, 512, 8, 2048, 640  # 38M parameters, bytes.


TINY: dict[str, Any] = {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "mlp_dim": 64, "memory_length": 64}


def write_model(directory: pathlib.Path, **changed: Any) -> None:
  """A model directory as a run leaves it, of other sizes if they are said; nothing is trained."""
  import jax
  import seqio

  from gpt4x import run_directory
  from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
  from gpt4x.data import vocabularies
  from gpt4x.models.config import TransformerConfig
  from gpt4x.models.language_model import LanguageModel
  sizes: dict[str, Any] = {"vocab_size": 260, "num_layers": LAYERS, "embed_dim": WIDTH, "num_heads": HEADS,
                           "mlp_dim": MLP, "memory_length": WINDOW - 64, "norm_position": "pre",
                           "scan_layers": False} | changed
  model = LanguageModel(TransformerConfig(**sizes))
  directory.mkdir(parents=True)
  vocabularies.save(seqio.ByteVocabulary(), directory)
  (directory / run_directory.CONFIG).write_text("\n".join([
      "import gpt4x.tasks", "Experiment.model = @LanguageModel()", "LanguageModel.config = @TransformerConfig()",
      "Experiment.dataset = @DatasetConfig()", "DatasetConfig.mixture_or_task_name = 'local_text_bytes'",
      "DatasetConfig.batch_size = 1", "DatasetConfig.task_feature_lengths = {'targets': 64}",
      *(f"TransformerConfig.{name} = {value!r}" for name, value in sizes.items()), ""]))
  checkpoints = Checkpoints(str(directory), CheckpointConfig())
  params = jax.jit(model.init)(jax.random.key(0))
  checkpoints.save(0, {"params": params}, data_state={}, seed=0, config_text="", wait=True)
  checkpoints.close()


@dataclasses.dataclass(frozen=True)
class Server:
  """One that listens on this machine."""

  port: int
  process: int  # Its number.

  @property
  def memory(self) -> float:
    """MiB of the process."""
    status = pathlib.Path(f"/proc/{self.process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

  @property
  def connections(self) -> int:
    """That the server has not closed: they are established, or its client has closed its own end."""
    _, *lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()
    ends = [line.split()[1:4:2] for line in lines]  # The address here, and the state.
    return sum(address.endswith(f":{self.port:04X}") and state in ("01", "08") for address, state in ends)

  def ask(self, prompt: str, max_tokens: int, **fields: Any) -> "Answer":
    """A streamed completion, timed at the client."""
    body = json.dumps({"model": "model", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                       "stream_options": {"include_usage": True}, "logit_bias": {"1": -100}} | fields)
    start, times, usage = time.perf_counter(), list[float](), 0
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
      response.read()
      return Answer(response.status, time.perf_counter() - start, [], 0)
    for line in response:
      if line.startswith(b"data: {"):
        event = json.loads(line[6:])
        if event.get("error"):
          raise RuntimeError(event["error"])
        if event.get("usage"):
          usage = event["usage"]["completion_tokens"]
        if event["choices"]:
          times.append(time.perf_counter() - start)
    connection.close()
    return Answer(200, times[0], times, usage)

  def ask_all(self, prompts: Sequence[str], max_tokens: int) -> tuple[float, list["Answer"]]:
    """Tokens a second of all together, and each answer."""
    start = time.perf_counter()
    with futures.ThreadPoolExecutor(len(prompts)) as pool:
      answers = list(pool.map(lambda prompt: self.ask(prompt, max_tokens), prompts))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - start), answers

  def metric(self, name: str) -> float:
    """A sample of /metrics, summed over its labels."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What came: the status, seconds to the first text, seconds of each event, and how many tokens."""

  status: int
  first: float
  times: list[float]
  tokens: int

  @property
  def per_token(self) -> float:
    """Seconds of each token behind the first."""
    return (self.times[-1] - self.times[0]) / max(1, self.tokens - 1)


@contextlib.contextmanager
def serving(directory: pathlib.Path, *flags: str) -> Iterator[Server]:
  """A server in a process of its own, ready to be asked."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = [sys.executable, "-m", "gpt4x.cli", "serve", f"--model_dir=model={directory}", f"--port={port}", *flags]
  log = directory.with_suffix(".log")  # A line for each request.
  with log.open("wb") as file:
    process = subprocess.Popen(command, env=os.environ | harness.ON_CPU, cwd=run.HERE.parent, stdout=file, stderr=file)
  try:
    while not _ready(port):
      if process.poll() is not None:
        raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
      time.sleep(0.2)
    yield Server(port, process.pid)
  finally:
    process.send_signal(signal.SIGTERM)
    process.wait()


def main(command: str, rows: Callable[[pathlib.Path, Any], Iterator[Row]],
         write: Callable[[pathlib.Path], None], **options: Any) -> None:
  """A script: its options by their defaults. Makes a model directory and its rows, and keeps each as it comes.

  `rounds`, if that is an option, are kept with the rows, and others in their command where they are not the defaults.
  """
  parser = argparse.ArgumentParser(prog=command)
  for name, default in options.items():
    parser.add_argument(f"--{name}", type=type(default), default=default, help="(default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  changed = [f" --{name}={getattr(arguments, name):g}" for name, default in options.items()
             if name != "rounds" and getattr(arguments, name) != default]
  described = run.described(run.machine(), getattr(arguments, "rounds", 1)) | {"command": command + "".join(changed)}
  with tempfile.TemporaryDirectory(prefix="serving-") as folder:
    directory = pathlib.Path(folder, "model")
    harness.in_a_process(write, directory)
    for row in rows(directory, arguments):
      print(row, row.met, flush=True)
      if not arguments.dry_run:
        run.keep([row], described)


def _ready(port: int) -> bool:
  try:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/ready")
    return connection.getresponse().status == 200
  except OSError:
    return False


def texts(count: int, length: int, seed: int = 0) -> list[str]:
  """Prompts of so many bytes, no two of which begin alike."""
  draw = random.Random(seed)
  return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=length)) for _ in range(count)]
