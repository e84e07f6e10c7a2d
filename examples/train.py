"""Trains a small model, with an optimizer of optax's that no gin file knows.

    python examples/train.py                    # 200 steps, a minute or two on two CPU cores
    python examples/train.py --steps=650 --model_dir=runs/deeper --gin 'TransformerConfig.num_layers = 6'

It prints the loss as it falls and the validation metrics before and after; the run lies in runs/example. The same
command again continues where it stopped. examples/sample.py and `gpt4x generate --model_dir=runs/example --prompt=...`
sample from the model.
"""

import argparse
import dataclasses
import sys

import optax

from gpt4x.commands import reading
from gpt4x.training.loop import train
from gpt4x.training.metrics import read_metrics


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model_dir", default="runs/example")
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--gin", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
  arguments = parser.parse_args()

  # What the command line would read: gin files, then single bindings. Model, data and mesh come from here.
  config = reading.new_run(["experiments/stdlib_tiny.gin"], [
      f"TRAIN_STEPS={arguments.steps}", "EVAL_STEPS=20", "CHECKPOINT_PERIOD=50", *arguments.gin])

  # A TrainConfig is a frozen dataclass: everything in it may be replaced. Optax transformations are taken as they are;
  # those of gpt4x/training/optimizers.py also read the model's declarations, to decay kernels alone.
  schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(arguments.steps // 10, 1), arguments.steps)
  config = dataclasses.replace(config, optimizer=optax.nadamw(schedule, b2=0.98), clip_norm=0.5)

  # The configuration goes into the model directory, so that `eval` and `generate` find model and data there. Gin has no
  # words for the optimizer above: this script continues the run, `gpt4x train --model_dir=...` does not.
  status = train(arguments.model_dir, config)

  for line in read_metrics(arguments.model_dir):
    if line["split"] == "validation":
      print(f"step {line['step']}: {line['bits_per_byte']:.3f} bits per byte")
  return status  # 0, or 75 after SIGTERM.


if __name__ == "__main__":
  sys.exit(main())
