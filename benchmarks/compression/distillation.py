"""How much of the gap between a student trained alone and its teacher distillation closes, in per cent.

The teacher is experiments/stdlib_tiny.gin with more steps, the student experiments/distillation_tiny.gin, of half the
depth and a quarter of the parameters. Alone it has the same configuration but for the objective, and either as many
tokens or as many seconds of training steps; its learning rate falls to the end of these. A seed's runs are on the same
core. All are evaluated on all held-out documents of the default corpus: the student alone, which overfits, by its best
evaluation, that of fewer steps included. With bits per byte, the figure is (alone - distilled) / (alone - teacher).

`distillation_gap_closed` is of a student that has 128 kB of text, which it sees several times. Of `endless_text` the
student alone sees more than the distilled one in the same time, which is what a teacher then has to make up for.

    python -m benchmarks.compression.distillation [--seeds=3] [--dry_run] [--steps=400] [--teacher_steps=1500]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
import random
import tempfile
from typing import Any

from benchmarks import harness, quickstart, run
from benchmarks.harness import Row
from benchmarks.media import runs

GOAL = 30.0  # Per cent.
TEXT = 128_000  # Bytes that the student of little text has.
LONGEST = 20_000  # Bytes of a document of these.


@dataclasses.dataclass(frozen=True)
class Closed:
  """What distillation closes of the gap for a seed, in per cent."""

  equal_seconds: float
  equal_tokens: float


def rows(bench: runs.Bench, steps: int, teacher_steps: int) -> Iterator[Row]:
  harness.in_a_process(write, str(bench.folder))
  # All cores; what is prepared here, the runs on one core find.
  teacher = bench.train("teacher", "experiments/stdlib_tiny.gin", **of_length(teacher_steps))
  best = bench.evaluate(teacher)["bits_per_byte"]
  print(f"teacher: {best:.4f} bits a byte", flush=True)
  little = {"MIXTURE_OR_TASK_NAME": "local_text_bytes", "LocalText.files": str(bench.folder / "train.jsonl"),
            "LocalText.validation_files": str(bench.folder / "validation.jsonl")}
  for name, goal, data in (("distillation_gap_closed", f"value >= {GOAL}", little),
                           ("distillation_gap_closed/endless_text", "", {})):
    where = "endless" if not data else "little"
    found = bench.each_seed(lambda seed, where=where, data=data: closed(bench, f"{where}{seed}", best, steps, {
        **data, "SEED": seed, "Distillation.teacher": teacher}))
    yield row(name, [one.equal_seconds for one in found], goal)
    yield row(f"{name}/equal_tokens", [one.equal_tokens for one in found])


def row(name: str, values: Sequence[float], goal: str = "") -> Row:
  value, error = quickstart.mean_and_error(values)
  return Row(f"compression/{name}", value, "%", error=error, goal=goal)


def closed(bench: runs.Bench, name: str, teacher: float, steps: int, bindings: Mapping[str, Any]) -> Closed:
  distilled, seconds = trained(bench, f"{name}_distilled", steps, bindings)
  plain = {**bindings, "OBJECTIVE": runs.Reference("@NextToken()")}
  same_tokens, spent = trained(bench, f"{name}_tokens", steps, plain, evaluations=2)
  rate = steps / spent
  for attempt in range(3):
    same_time, spent = trained(bench, f"{name}_seconds{attempt}", round(rate * seconds), plain, evaluations=2)
    if spent >= 0.97 * seconds:  # More is to the good of the student alone.
      break
    rate *= 1.02 * seconds / spent
  else:
    raise RuntimeError(f"all runs were shorter than {seconds:.0f} s: something else uses the machine")
  print(f"{name}: {distilled:.4f} bits a byte in {seconds:.0f} s; alone {same_time:.4f} in {spent:.0f} s,"
        f" {same_tokens:.4f} by as many tokens", flush=True)
  if teacher >= min(same_tokens, same_time):
    raise RuntimeError(f"a teacher of {teacher:.4f} bits a byte leaves no gap to close: give it more --teacher_steps")
  share = lambda alone: 100 * (alone - distilled) / (alone - teacher)
  return Closed(share(min(same_tokens, same_time)), share(same_tokens))


def trained(bench: runs.Bench, name: str, steps: int, bindings: Mapping[str, Any],
            evaluations: int = 1) -> tuple[float, float]:
  """The best figure of a run, by so many evaluations of its own, and the seconds of its steps."""
  directory = bench.train(name, "experiments/distillation_tiny.gin", **{
      **of_length(steps), **bindings, "EVAL_PERIOD": -(-steps // evaluations)})
  lines = quickstart.read_metrics(directory)
  return min(line["bits_per_byte"] for line in lines if "bits_per_byte" in line), quickstart.seconds(lines)


def of_length(steps: int) -> dict[str, Any]:
  return {"TRAIN_STEPS": steps, "warmup_linear.warmup_steps": min(30, steps // 2), "EVAL_PERIOD": None,
          "CHECKPOINT_PERIOD": steps, "train.trackers": ()}


def write(folder: str) -> None:
  """train.jsonl, some short documents of the default corpus by chance, and validation.jsonl, all held-out ones."""
  quickstart.write_corpus(folder)
  candidates, documents, size = quickstart.read_corpus(folder, "train"), [], 0
  random.Random(0).shuffle(candidates)
  for document in candidates:
    if len(document) <= LONGEST and size + len(document) <= TEXT:
      documents.append(document)
      size += len(document)
  for name, found in (("train", documents), ("validation", quickstart.read_corpus(folder, "validation"))):
    lines = (json.dumps({"text": document.decode()}) for document in found)
    pathlib.Path(folder, f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.distillation")
  parser.add_argument("--seeds", type=int, default=3, help="students to train (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=400, help="of a distilled student (default: %(default)s)")
  parser.add_argument("--teacher_steps", type=int, default=1500, help="of the teacher (default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix="distillation-") as folder:
    bench = runs.Bench("", arguments.seeds, pathlib.Path(folder))
    run.keep_seeds(rows(bench, arguments.steps, arguments.teacher_steps), arguments.seeds,
                   "python -m benchmarks.compression.distillation", arguments.dry_run)


if __name__ == "__main__":
  main()
