"""Start: seconds from the command `gpt4x train` on experiments/stdlib_tiny.gin to the end of the first step.

`start/warm` finds its programs in JAX's compilation cache, `start/cold` an empty one; both find their data prepared,
and leave out the evaluation before the first step. Each is broken into imports (of the main thread), compilation
(tracing included, of all programs), the first step, and what is left: gin, opening the data and making the state.
"""

import builtins
from collections.abc import Callable, Iterator
import importlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import harness, pipeline
from benchmarks.harness import Round, Row

PARTS = ("imports", "data", "compile", "first_step")


def rows(rounds: int) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as folder:
    found = harness.alternate({"cold": cold, "warm": warm}, folder, rounds)
  yield Row("start/cold", harness.median(found["cold"], "seconds"), "s")
  yield harness.compare("start/warm", "s", found["warm"], found["cold"], "seconds",
                        goal="ratio <= 0.5 and value <= 12")
  for side, results in found.items():
    for part in PARTS:
      yield Row(f"start/{side}/{part}", harness.median(results, part), "s")


def cold(folder: str) -> Callable[[], Round]:
  def run():
    with tempfile.TemporaryDirectory() as empty:
      return start(folder, empty)

  return run


def warm(folder: str) -> Callable[[], Round]:
  return lambda: start(folder, str(pathlib.Path(folder) / "compiled"))


def start(data_dir: str, cache_dir: str) -> Round:
  """Runs the command, and reads from what it prints, and when, where the time goes."""
  with tempfile.TemporaryDirectory() as model_dir:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.start", "train", f"--gin_file={pipeline.EXPERIMENT}",
         f"--model_dir={model_dir}", "--gin.EVAL_PERIOD=None", "--gin.TRAIN_STEPS=2"],
        env=os.environ | {"GPT4X_DATA_DIR": data_dir, "JAX_COMPILATION_CACHE_DIR": cache_dir, "JAX_LOG_COMPILES": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found, printed = dict.fromkeys(PARTS, 0.0), []
    for line in process.stdout:
      printed.append(line)
      seconds = time.perf_counter() - began
      if match := re.search(r"Finished .* in ([\d.]+) sec", line):
        found["compile"] += float(match[1])
        compiled = seconds
      elif match := re.match(r"imported in ([\d.]+) s", line):
        found["imports"] += float(match[1])
      elif line.startswith("step 1/"):
        break
    else:
      raise RuntimeError("".join(printed))
    process.communicate()
  found["first_step"] = seconds - compiled
  return found | {"seconds": seconds, "data": seconds - sum(found.values())}


def main() -> int:
  """The `gpt4x` command, which also prints what its imports take."""
  depth = 0

  def clocked(imports: Callable) -> Callable:
    def wrapper(*args, **kwargs):
      nonlocal depth
      began, depth = time.perf_counter(), depth + 1
      try:
        return imports(*args, **kwargs)
      finally:
        depth -= 1
        if not depth and (seconds := time.perf_counter() - began) > 1e-3:
          print(f"imported in {seconds:.6f} s", flush=True)

    return wrapper

  builtins.__import__, importlib.import_module = clocked(builtins.__import__), clocked(importlib.import_module)
  from gpt4x import cli
  return cli.main()


if __name__ == "__main__":
  sys.exit(main())
