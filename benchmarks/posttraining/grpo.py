"""Rewards: how many more different letters answers of 16 bytes have after experiments/group_relative_tiny.gin.

The base is experiments/stdlib_tiny.gin with fewer steps, the prompts are beginnings of lines of its held-out text, and
half of them are only evaluated on. The figure is the held-out reward at the end over that at the beginning.

    python -m benchmarks.posttraining.grpo --data=DIR [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator
import json
import pathlib

from benchmarks import harness, quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

BASE_STEPS, STEPS, PROMPTS = 200, 100, 400


def rows(bench: runs.Bench) -> Iterator[Row]:
  harness.in_a_process(write, str(bench.folder))
  base = bench.train("base", "experiments/stdlib_tiny.gin", **{
      "TRAIN_STEPS": BASE_STEPS, "EVAL_PERIOD": None, "train.trackers": ()})
  found = bench.each_seed(lambda seed: gained(bench, base, seed))
  gain, error = quickstart.mean_and_error([100 * (after / before - 1) for before, after, _ in found])
  for before, after, seconds in found:
    print(f"{before:.2f} to {after:.2f} letters in {seconds:.0f} s", flush=True)
  yield Row("posttraining/grpo_reward_gain", gain, "%", error=error, goal="value >= 50")


def gained(bench: runs.Bench, base: str, seed: int) -> tuple[float, float, float]:
  """The held-out reward before and after, and the seconds of the steps."""
  directory = bench.train(f"seed{seed}", "experiments/group_relative_tiny.gin", **{
      "LocalChat.files": str(bench.folder / "train.jsonl"), "train.init_from": base, "SEED": seed,
      "LocalChat.validation_files": str(bench.folder / "validation.jsonl"), "TRAIN_STEPS": STEPS, "EVAL_STEPS": None,
      "EVAL_PERIOD": STEPS, "CHECKPOINT_PERIOD": STEPS, "train.trackers": ()})
  lines = quickstart.read_metrics(directory)
  before, after = (line["reward"] for line in lines if line["split"] == "validation")
  return before, after, quickstart.seconds(lines)


def write(folder: str) -> None:
  """train.jsonl and validation.jsonl, prompts of 8 to 24 bytes."""
  quickstart.write_corpus(folder)
  lines = [line.strip()[:24] for document in quickstart.read_corpus(folder, "validation")
           for line in document.decode().splitlines()]
  prompts = list(dict.fromkeys(line for line in lines if len(line) >= 8))
  prompts = prompts[::max(1, len(prompts) // PROMPTS)][:PROMPTS]
  for name, part in (("train", prompts[::2]), ("validation", prompts[1::2])):
    pathlib.Path(folder, f"{name}.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in part))


if __name__ == "__main__":
  runs.main(rows)
