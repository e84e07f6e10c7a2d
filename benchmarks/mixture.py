"""A dense model and a mixture of experts of equal FLOPs per token, trained on the same tokens: their validation loss.

    python benchmarks/mixture.py [--steps=650]

Both are the tiny experiment on the default corpus; the mixture has more parameters, of which a token meets as many.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--steps", type=int, default=650, help="training steps of 1,024 tokens (default: %(default)s)")
  steps = parser.parse_args().steps
  with tempfile.TemporaryDirectory() as folder:
    for experiment in ("stdlib_tiny", "stdlib_tiny_moe"):
      model_dir = pathlib.Path(folder) / experiment
      command = [sys.executable, "-m", "gpt4x.cli", "train", f"--gin_file=experiments/{experiment}.gin",
                 f"--model_dir={model_dir}", f"--gin.TRAIN_STEPS={steps}"]
      described = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr.splitlines()[0]
      lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
      last = [line for line in lines if line["split"] == "validation"][-1]
      print(f"{experiment}: {described.split(';')[0]}")
      print(f"  step {last['step']}: validation loss {last['loss']:.4f}, {last['bits_per_byte']:.4f} bits per byte",
            flush=True)


if __name__ == "__main__":
  main()
