"""What the scripts share: commands of gpt4x in processes of their own, seeds side by side, and where rows are kept."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import shlex
import subprocess
import sys
import tempfile
from typing import Any, TypeVar

from benchmarks import harness, run
from benchmarks.harness import Row
from benchmarks.quickstart import mean_and_error

S = TypeVar("S")
T = TypeVar("T")


class Reference(str):
  """A gin reference, which has no quotes."""

  __repr__ = str.__str__


@dataclasses.dataclass(frozen=True)
class Bench:
  """Where a script works.

  Attributes:
    source: the directory of the public sets; see data.py.
    seeds: how many models are trained.
    folder: of this script; empty at first, or what an earlier start has left there.
  """

  source: str
  seeds: int
  folder: pathlib.Path

  def each_seed(self, measure: Callable[[int], T], kept: str | None = None) -> list[T]:
    """What `measure` gives for each seed; of a name under which it is `kept`, as JSON has it, once for all starts."""
    def once(seed: int) -> T:
      file = self.folder / f"{kept}{seed}.json"
      if not file.exists():
        found = json.dumps(measure(seed))
        file.write_text(found)
      return json.loads(file.read_text())

    return self.each(range(self.seeds), once if kept else measure)

  def each(self, items: Iterable[S], measure: Callable[[S], T]) -> list[T]:
    """What `measure` gives for each item; as many at a time as there are cores, each on one of its own."""
    cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    for core in usable:
      cores.put(core)

    def one(item: S) -> T:
      core = cores.get()
      try:
        if core is not None:
          os.sched_setaffinity(0, {core})  # Of this thread, and of the processes that it starts.
        return measure(item)
      finally:
        cores.put(core)

    with futures.ThreadPoolExecutor(len(usable)) as pool:
      return list(pool.map(one, items))

  def gpt4x(self, *arguments: str, **bindings: Any) -> str:
    """What a command prints; bindings are gin's, in Python's words: `files="a"` for `--gin.files='a'`."""
    command = [sys.executable, "-m", "gpt4x.cli", *arguments,
               *(f"--gin.{name}={value!r}" for name, value in bindings.items())]
    finished = subprocess.run(command, env=os.environ | self._environment, cwd=run.HERE.parent, capture_output=True,
                              text=True)
    if finished.returncode:
      raise RuntimeError(f"{shlex.join(command)} failed:\n{finished.stderr}")
    return finished.stdout

  def call(self, function: Callable[..., T], *arguments: Any) -> T:
    """What a top-level function returns, called as a command would run: in a process of its own."""
    return harness.in_a_process(function, *arguments, environment=self._environment)

  @property
  def _environment(self) -> dict[str, str]:
    return harness.ON_CPU | {"GPT4X_DATA_DIR": str(self.folder / "prepared"),
                             "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}

  def files(self, train: str = "train") -> dict[str, str]:
    """Bindings that read TRAIN.jsonl of the script's folder, and test.jsonl for validation."""
    return {"LocalMedia.files": str(self.folder / f"{train}.jsonl"),
            "LocalMedia.validation_files": str(self.folder / "test.jsonl")}

  def train(self, name: str, gin_file: str, **bindings: Any) -> str:
    """Trains an experiment; returns its directory."""
    directory = str(self.folder / name)
    self.gpt4x("train", f"--gin_file={gin_file}", f"--model_dir={directory}", **bindings)
    return directory

  def codec(self, name: str, gin_file: str, **bindings: Any) -> str:
    """Trains and exports a codec; returns its directory."""
    directory, output = self.train(f"{name}_run", gin_file, **bindings), str(self.folder / name)
    self.gpt4x("export", f"--model_dir={directory}", f"--output={output}")
    return output

  def evaluate(self, directory: str, *flags: str, **bindings: Any) -> dict[str, float]:
    """The metrics of `gpt4x eval`."""
    printed = self.gpt4x("eval", f"--model_dir={directory}", *flags, **bindings)
    return {name: float(value) for name, _, value in (line.partition(" ") for line in printed.splitlines())}


def row(name: str, values: Sequence[float], unit: str, better: str, peer: float) -> Row:
  """The row of a figure of several seeds, to be `better` ('>=', '<=' or '<') than what a plain method reaches."""
  value, error = mean_and_error(values)
  return Row(f"media/{name}", value, unit, peer, value / peer, error=error, goal=f"value {better} {peer}")


def last_metrics(directory: str, split: str = "validation") -> dict[str, Any]:
  """The last line of a run's metrics for a split."""
  lines = [json.loads(line) for line in pathlib.Path(directory, "metrics.jsonl").read_text().splitlines()]
  return [line for line in lines if line["split"] == split][-1]


def main(rows: Callable[[Bench], Iterator[Row]], data: bool = True) -> None:
  """Runs a script, which may need public data: measures its rows, and keeps them in results.json and RESULTS.md."""
  script = pathlib.Path(sys.argv[0])
  command = f"python -m benchmarks.{script.parent.name}.{script.stem}"
  parser = argparse.ArgumentParser(prog=command)
  parser.add_argument("--data", required=data, default=".", metavar="DIR", help="the directory of the public sets")
  parser.add_argument("--seeds", type=int, default=3, help="models to train (default: %(default)s)")
  parser.add_argument("--folder", metavar="DIR", help="work there, and go on with what an earlier start has left")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  if arguments.folder:
    os.makedirs(arguments.folder, exist_ok=True)
  with (contextlib.nullcontext(os.path.abspath(arguments.folder)) if arguments.folder else
        tempfile.TemporaryDirectory(prefix=f"{script.stem}-")) as folder:
    bench = Bench(os.path.abspath(arguments.data), arguments.seeds, pathlib.Path(folder))
    run.keep_seeds(rows(bench), arguments.seeds, f"{command} --data=DIR" if data else command, arguments.dry_run)
