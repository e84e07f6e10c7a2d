"""What integers and zeros cost in bits per byte, and what of it fitting and training win back.

The model is experiments/quickstart.gin (1.4M parameters, 1.23 bits per byte on the default corpus' held-out files), or
with --large one of 41M parameters, its family's in 12 layers of width 512, trained for --steps. Bits per byte are by
`gpt4x eval`, on the whole split; agreement and divergence by `gpt4x compress`, on 64 batches of it.

  int8_bits_per_byte_change, int8_all_..., int4_...
                        per cent, against the float32 model; int4 is fitted by GPTQ, its peer rounded to the nearest
  int8_top1             the share of tokens of which both models say the same next one
  int8_size             bytes of the parameters, over those of float32
  wanda_damage_closed, sparsegpt_damage_closed
                        at half of the weights: what of the loss that pruning by magnitude adds is not added
  recovered_50, recovered_2_4
                        per cent, of SparseGPT's half and 2:4 after as many steps of training again as --recover says,
                        zeros kept

    python -m benchmarks.compression.quality [--seeds=3] [--large] [--steps=N] [--recover=200] [--dry_run]
"""

import argparse
from collections.abc import Iterator
import pathlib
import re
import tempfile
from typing import Any

from benchmarks import quickstart, run
from benchmarks.harness import Row
from benchmarks.media import runs

LARGE = {"TransformerConfig.num_layers": 12, "TransformerConfig.embed_dim": 512, "TransformerConfig.num_heads": 8,
         "TransformerConfig.mlp_dim": 2048, "BATCH_SIZE": 16, "warmup_linear.peak": 0.01}
BATCHES = 64
HALF = ("magnitude:50%", "wanda:50%", "sparsegpt:50%")


def rows(bench: runs.Bench, large: bool, steps: int | None, recover: int) -> Iterator[Row]:
  size = LARGE if large else {}
  length = {"TRAIN_STEPS": steps} if steps else {}
  bench.gpt4x("vocabulary", "--task=stdlib_bytes", "--size=4096", "--output=stdlib_spm")
  found = bench.each_seed(lambda seed: measured(bench, seed, {**size, **length, "SEED": seed}, recover))
  for name, unit, goal in (
      ("int8_bits_per_byte_change", "%", "value <= 0.1"), ("int8_top1", "%", "value >= 99"),
      ("int8_all_bits_per_byte_change", "%", "value <= 0.3"), ("int4_bits_per_byte_change", "%", "value <= 2"),
      ("int8_size", "of float32", "value <= 0.27"), ("wanda_damage_closed", "%", "value >= 60"),
      ("sparsegpt_damage_closed", "%", "value >= 60"), ("recovered_50", "%", "value <= 3"),
      ("recovered_2_4", "%", "value <= 5")):
    value, error = quickstart.mean_and_error([one[name] for one in found])
    peer, _ = quickstart.mean_and_error([one["rounded"] for one in found]) if name.startswith("int4") else (None, None)
    yield Row(f"compression/{name}{'/large' if large else ''}", value, unit, peer, peer and value / peer, error=error,
              goal=goal)


def measured(bench: runs.Bench, seed: int, bindings: dict[str, Any], recover: int) -> dict[str, float]:
  """The figures of one model, by name."""
  model = bench.train(f"model{seed}", "experiments/quickstart.gin", **bindings, EVAL_PERIOD=None)
  before = bench.evaluate(model)["bits_per_byte"]
  change = lambda directory: 100 * (bench.evaluate(directory)["bits_per_byte"] / before - 1)

  def compressed(name: str, *flags: str) -> tuple[str, dict[str, float]]:
    output = str(bench.folder / f"{name}{seed}")
    printed = bench.gpt4x("compress", f"--model_dir={model}", f"--output={output}", f"--max_batches={BATCHES}", *flags)
    return output, table(printed)

  found: dict[str, float] = {"bits_per_byte": before}
  for name, *flags in (("int8", "--quantize=int8"), ("int8_all", "--quantize=int8-all"), ("int4", "--quantize=int4")):
    directory, told = compressed(name, *flags)
    found[f"{name}_bits_per_byte_change"] = change(directory)
    if name == "int8":
      found |= {"int8_top1": told["same top 1"], "int8_size": told["size"]}
  found["rounded"] = change(compressed("rounded", "--quantize=int4", "--calibrate=round")[0])
  added = {}
  for how in HALF:
    directory, _ = compressed(how.partition(":")[0], f"--prune={how}")
    added[how] = change(directory)
    if how != HALF[0]:
      found[f"{how.partition(':')[0]}_damage_closed"] = 100 * (1 - added[how] / added[HALF[0]])
  pattern, _ = compressed("pattern", "--prune=sparsegpt:2:4")
  for name, start in (("recovered_50", directory), ("recovered_2_4", pattern)):
    found[name] = change(bench.train(f"{name}{seed}", f"{start}/config.gin", **{
        "train.init_from": start, "OPTIMIZER": runs.Reference("@sparse()"),
        "sparse.optimizer": runs.Reference("@muon()"),
        "TRAIN_STEPS": recover, "warmup_linear.peak": 0.005, "EVAL_PERIOD": None, "SEED": seed}))
  print(f"seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
  return found


def table(printed: str) -> dict[str, float]:
  """What `gpt4x compress` prints of the new model, by name, and its size over that of the old one."""
  _, *lines, last = printed.splitlines()
  found = {line[:12].strip(): float(line.split()[-1].rstrip("%")) for line in lines}
  size = re.search(r"\(([\d.]+) of", last)
  assert size is not None, last
  return found | {"size": float(size[1])}


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.quality")
  parser.add_argument("--seeds", type=int, default=3, help="models to train (default: %(default)s)")
  parser.add_argument("--large", action="store_true", help="one of 41M parameters")
  parser.add_argument("--steps", type=int, help="of the model's training")
  parser.add_argument("--recover", type=int, default=200, help="steps of training again (default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  command = " ".join(["python -m benchmarks.compression.quality", *["--large"] * arguments.large,
                      *[f"--steps={arguments.steps}"] * bool(arguments.steps)])
  with tempfile.TemporaryDirectory(prefix="quality-") as folder:
    bench = runs.Bench("", arguments.seeds, pathlib.Path(folder))
    run.keep_seeds(rows(bench, arguments.large, arguments.steps, arguments.recover), arguments.seeds, command,
                   arguments.dry_run)


if __name__ == "__main__":
  main()
