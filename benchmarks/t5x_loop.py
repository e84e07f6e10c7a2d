"""Our loop beside upstream t5x's, on the same experiment: how far their losses differ, and what a step takes in each.

    python benchmarks/t5x_loop.py            # with t5x on the path, see `make t5x`

The first steps of experiments/stdlib_tiny.gin run on both loops, also on eight simulated devices as 4 x 2. Then the
loops take turns, some rounds of 60 steps each; a round's figure is the median of its reports, the first left out.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

EXPERIMENT = "experiments/stdlib_tiny.gin"


def run(loop: str, model_dir: pathlib.Path, steps: int, devices: int = 1, **bindings: object) -> list[dict]:
  """Trains in a process of its own, without evaluation; the training lines of metrics.jsonl."""
  bindings = {"TRAIN_STEPS": steps, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": steps, **bindings}
  result = subprocess.run(
      [sys.executable, "-m", "gpt4x.cli", "train", f"--loop={loop}", f"--gin_file={EXPERIMENT}",
       f"--model_dir={model_dir}", *(f"--gin.{name.replace('__', '.')}={value!r}" for name, value in bindings.items())],
      stderr=subprocess.PIPE, text=True,
      env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"})
  if result.returncode:
    sys.exit(result.stderr)
  return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--steps", type=int, default=50, help="steps whose losses are compared; 0: none")
  parser.add_argument("--rounds", type=int, default=5, help="rounds of timing")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    for name, devices, mesh in (("one device", 1, {}), ("4 x 2 devices", 8, {"Partitioner__tensor": 2})):
      if arguments.steps:
        ours, theirs = (run(loop, folder / f"{loop} {name}", arguments.steps, devices, train__log_period=1, **mesh)
                        for loop in ("gpt4x", "t5x"))
        worst = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(ours, theirs, strict=True))
        print(f"losses of {arguments.steps} steps on {name}: within {worst:.1e} of one another, relative", flush=True)
    seconds = {"gpt4x": [], "t5x": []}
    for i in range(arguments.rounds):
      for loop, found in seconds.items():
        lines = run(loop, folder / f"{loop}-{i}", 60)
        found.append(1 / statistics.median(line["steps_per_second"] for line in lines[1:]))
    medians = {loop: statistics.median(found) for loop, found in seconds.items()}
    for loop, found in seconds.items():
      print(f"{loop}: {1e3 * medians[loop]:.1f} ms a step, rounds {', '.join(f'{1e3 * s:.1f}' for s in found)}")
    ratios = [ours / theirs for ours, theirs in zip(seconds["gpt4x"], seconds["t5x"])]
    print(f"a step of ours takes {statistics.median(ratios):.3f} of t5x's (median of the rounds' ratios)")


if __name__ == "__main__":
  main()
