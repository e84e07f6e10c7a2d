"""Ways to train, at equal seconds: bits per byte of experiments/stdlib_tiny.gin after SECONDS of one core.

Each way has its own best of three learning rates, by the first seed, and then three seeds. Its steps are those that
fit: a short run says how long one takes. Compilation and evaluation are left out of the seconds. A way is worth taking
up if it gains more than two standard errors of the difference.

  algorithms/muon      the experiment as it is
  algorithms/NAME      another way; its peer is `algorithms/muon`, and the goal is met where it gains

Not tried: ramps of the batch or the length, since a run keeps both, and what needs another model.

    python -m benchmarks.algorithms [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

SECONDS, CALIBRATION = 100.0, 30
GIN = "include 'experiments/stdlib_tiny.gin'\nimport benchmarks.candidates\n"


class Way(NamedTuple):
  """Bindings beside the experiment's, what the learning rate is called, and the rates that are tried."""

  bindings: dict[str, Any]
  rate: str = "warmup_linear.peak"
  rates: tuple[float, ...] = (0.0075, 0.015, 0.03)


def _optimizer(name: str, *rates: float, **more: Any) -> Way:
  return Way({"OPTIMIZER": runs.Reference(f"@{name}()"), f"{name}.learning_rate": runs.Reference("@warmup_linear()"),
              **more}, rates=rates)


WAYS = {
    "muon": Way({}),
    "adamw": _optimizer("adamw", 0.003, 0.006, 0.012, **{"adamw.b2": 0.98}),
    "lion": _optimizer("lion", 0.0005, 0.001, 0.002),
    "adafactor": _optimizer("adafactor", 0.02, 0.05, 0.1),
    "ademamix": _optimizer("ademamix", 0.003, 0.006, 0.012),
    "adopt": _optimizer("adopt", 0.003, 0.006, 0.012),
    "soap": _optimizer("soap", 0.003, 0.006, 0.012),
    "schedule_free": Way({"OPTIMIZER": runs.Reference("@schedule_free()")}, "schedule_free.learning_rate",
                         (0.006, 0.012, 0.024)),
    "cautious_muon": Way({"OPTIMIZER": runs.Reference("@cautious()"),
                          "cautious.optimizer": runs.Reference("@muon()")}),
    "trapezoid": Way({"muon.learning_rate": runs.Reference("@warmup_stable_decay()"),
                      "warmup_stable_decay.warmup_steps": 30}, "warmup_stable_decay.peak"),
    "qk_norm": Way({"TransformerConfig.qk_norm": True}),
    "swiglu": Way({"TransformerConfig.activation": "swiglu", "TransformerConfig.mlp_dim": 512}),
    "rotary": Way({"TransformerConfig.positions": "rotary"}),
    "half_batch": Way({"BATCH_SIZE": 8}),
}


def rows(bench: runs.Bench) -> Iterator[Row]:
  gin_file = bench.folder / "tried.gin"
  gin_file.write_text(GIN)
  found = dict(zip(WAYS, bench.each(WAYS, lambda name: tried(bench, str(gin_file), name, WAYS[name]))))
  base, base_error = quickstart.mean_and_error(found["muon"])
  yield Row("algorithms/muon", base, "bits/byte", error=base_error)
  for name, values in found.items():
    if name != "muon":
      value, error = quickstart.mean_and_error(values)
      most = base - 2 * float(np.hypot(error, base_error))
      yield Row(f"algorithms/{name}", value, "bits/byte", base, value / base, error=error, goal=f"value < {most:.4f}")


def tried(bench: runs.Bench, gin_file: str, name: str, way: Way) -> list[float]:
  """Bits per byte of each seed, with the learning rate that is best for the first."""
  steps = CALIBRATION
  for _ in range(2):  # The second run says it better.
    _, seconds = trained(bench, gin_file, f"{name}_{steps}", way, way.rates[1], steps, 0)
    steps = max(CALIBRATION + 1, round(steps * min(SECONDS / seconds, 5.0 if steps == CALIBRATION else 20.0)))
  looks = {rate: trained(bench, gin_file, f"{name}_rate{rate}", way, rate, steps, 0)[0] for rate in way.rates}
  best = min(looks, key=looks.__getitem__)
  values = [looks[best]] + [trained(bench, gin_file, f"{name}_seed{seed}", way, best, steps, seed)[0]
                            for seed in range(1, bench.seeds)]
  shown = ", ".join(f"{rate}: {value:.4f}" for rate, value in looks.items())
  print(f"{name}: {steps} steps; {shown}; seeds {', '.join(f'{value:.4f}' for value in values)}", flush=True)
  return values


def trained(bench: runs.Bench, gin_file: str, name: str, way: Way, rate: float, steps: int,
            seed: int) -> tuple[float, float]:
  """(bits per byte of the held-out files, seconds of the steps)."""
  bindings = {"TRAIN_STEPS": steps, "EVAL_PERIOD": steps, "EVAL_STEPS": 50, "CHECKPOINT_PERIOD": steps, "SEED": seed,
              "train.trackers": (), **way.bindings, way.rate: rate}
  if way.rate.startswith("warmup_stable_decay"):
    bindings |= {"warmup_stable_decay.total_steps": steps, "warmup_stable_decay.decay_steps": steps // 4}
  directory = bench.train(name, gin_file, **bindings)
  lines = quickstart.read_metrics(directory)
  bits = [line["bits_per_byte"] for line in lines if line["split"] == "validation"][-1]
  return bits, quickstart.seconds(lines)


if __name__ == "__main__":
  runs.main(rows, data=False)
