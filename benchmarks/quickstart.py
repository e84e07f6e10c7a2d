"""The commands of `make quickstart`, as a newcomer runs them, and what their run says of itself."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import pickle
import shlex
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import harness

HERE = pathlib.Path(__file__).parent
CORPUS = "corpus.pickle"


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a run reached on the held-out documents, and in what time."""

  bits_per_byte: float
  num_bytes: int  # Of text, that the figure is over.
  seconds: float  # Of the training steps; compilation and evaluation are left out.
  steps: int


def commands(run: str) -> list[list[str]]:
  """The `gpt4x` commands that `make quickstart` gives for a folder of the run, by this Python's environment."""
  listed = subprocess.run(["make", "--dry-run", "quickstart", f"RUN={run}", "BIN="], cwd=HERE.parent, check=True,
                          capture_output=True, text=True).stdout.replace("\\\n", " ")
  found = [shlex.split(line) for line in listed.splitlines() if line.lstrip().startswith("/gpt4x ")]
  return [[sys.executable, "-m", "gpt4x.cli", *command[1:]] for command in found]


def is_train(command: Sequence[str]) -> bool:
  return command[3] == "train"


def run(command: Sequence[str], data_dir: str, **bindings: Any) -> None:
  """Runs a command with gin bindings, without a compilation cache, on what prepared data is in a folder."""
  environment = os.environ | harness.ON_CPU | {"GPT4X_DATA_DIR": data_dir}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  finished = subprocess.run([*command, *(f"--gin.{name}={value}" for name, value in bindings.items())], env=environment,
                            cwd=HERE.parent, capture_output=True, text=True)
  if finished.returncode:
    raise RuntimeError(f"{shlex.join(command)} failed:\n{finished.stderr}")


def read_metrics(run: str) -> list[dict[str, Any]]:
  return [json.loads(line) for line in pathlib.Path(run, "metrics.jsonl").read_text().splitlines()]


def trained(lines: Sequence[Mapping[str, Any]]) -> Trained:
  """What the metrics of a whole run say."""
  last = [line for line in lines if "bits_per_byte" in line][-1]
  steps = max(line["step"] for line in lines)
  if last["step"] != steps:
    raise ValueError(f"evaluated at step {last['step']}, but trained to {steps}")
  num_bytes = last["loss"] * last["tokens"] / math.log(2) / last["bits_per_byte"]
  return Trained(last["bits_per_byte"], round(num_bytes), seconds(lines), steps)


def seconds(lines: Iterable[Mapping[str, Any]], after: int = 0) -> float:
  """Seconds of training after a step: the steps of each report by its rate, which leaves out all but training.

  Of a period with an evaluation in its midst only the rest is timed; its rate stands for all of the period.
  """
  total, before = 0.0, 0
  for line in lines:
    if line["split"] == "train":
      if line["step"] > after:
        total += (line["step"] - max(before, after)) / line["steps_per_second"]
      before = line["step"]
  return total


def check_bytes(counted: int, documents: Sequence[bytes]) -> None:
  """Raises ValueError unless a figure is over all bytes of the held-out documents, and each once."""
  if counted != (expected := sum(map(len, documents))):
    raise ValueError(f"a figure over {counted} bytes, but the held-out documents have {expected}")


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
  """The mean, and its standard error if there are several values."""
  error = statistics.stdev(values) / len(values)**0.5 if len(values) > 1 else None
  return statistics.fmean(values), error


def write_corpus(folder: str) -> None:
  """Writes the documents of the default corpus, in bytes by split, for whoever is to read them without TensorFlow."""
  from gpt4x.data import python_stdlib
  splits: dict[str, list[bytes]] = {}
  for name, text in python_stdlib.documents(python_stdlib.PythonStdlib.BUILDER_CONFIGS[0].root):
    splits.setdefault(python_stdlib.split_of(name), []).append(text.encode())
  pathlib.Path(folder, CORPUS).write_bytes(pickle.dumps(splits))


def read_corpus(folder: str, split: str) -> list[bytes]:
  return pickle.loads(pathlib.Path(folder, CORPUS).read_bytes())[split]


def model_config(gin_file: str) -> Any:
  """The TransformerConfig of an experiment."""
  from gpt4x.commands import reading
  return reading.new_run([gin_file]).experiment.model.config
