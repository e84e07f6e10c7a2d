"""The step of training with products in the compute dtype (bfloat16), int8 and fp8, on one accelerator, in turns.

    python -m benchmarks.compression.training_products [--form=NAME ...] [--width=2048] [--layers=12] [--batch=8]
      [--length=2048] [--gradients=all] [--rounds=7] [--tiny]

The step is that of `gpt4x train`: a decoder with rotary positions and no memory, Adam, gradients clipped, nothing
rematerialised but attention's scores. Each form is a process of its own, and they take turns. Printed are one JSON
object a form: milliseconds of a step and tokens/s (medians), how often that is the first form's speed, and the most
memory. Of the project's requirements it needs jax, flax, optax, einops, rich and gin-config, as benchmarks/gpu.py does.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import sys
from typing import Any, Literal

from benchmarks import gpu, harness, training
from benchmarks.harness import Round


@dataclasses.dataclass(frozen=True)
class Case(gpu.Case):
  gradients: Literal["all", "inputs", "none"]  # Which products of the backward pass are rounded.


def compute(case: Case) -> Callable[[], Round]:
  return _train(case, None)


def int8(case: Case) -> Callable[[], Round]:
  return _train(case, "int8")


def fp8(case: Case) -> Callable[[], Round]:
  return _train(case, "fp8")


def _train(case: Case, form: Literal["int8", "fp8"] | None) -> Callable[[], Round]:
  import jax

  from gpt4x.compression.training_products import TrainingProducts
  from gpt4x.models.language_model import LanguageModel
  model = LanguageModel(case.config, TrainingProducts(form, case.gradients) if form else None)
  run_steps = training.our_steps(model, case.rows, case.length, case.steps, num_devices=1)

  def round() -> Round:
    found = run_steps()
    stats = jax.local_devices()[0].memory_stats() or {}  # A CPU has none.
    return found | {"device_memory": stats.get("peak_bytes_in_use", 0) / 2**30}

  return round


FORMS = {"compute": compute, "int8": int8, "fp8": fp8}


def measure(case: Case, forms: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
  """What is printed of each form."""
  environment = harness.ON_CPU if case.tiny else gpu.ON_GPU
  found = harness.alternate({form: FORMS[form] for form in forms}, case, rounds, environment)
  speeds = {form: harness.median(found[form], "tokens") for form in forms}
  for form, speed in speeds.items():
    yield {"form": form, "step_ms": 1e3 * case.rows * case.length / speed, "tokens_per_second": speed,
           "speed": speed / speeds[forms[0]], "gib": harness.median(found[form], "device_memory")}


def main(arguments: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--form", action="append", choices=FORMS, help="may be repeated (default: all)")
  parser.add_argument("--gradients", default="all", choices=("all", "inputs", "none"))
  for name, default in (("width", 2048), ("layers", 12), ("batch", 8), ("length", 2048), ("rounds", 7)):
    parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
  parser.add_argument("--tiny", action="store_true", help="toy sizes, on CPU")
  a = parser.parse_args(arguments)
  from gpt4x.models.config import TransformerConfig
  sizes = gpu.TINY if a.tiny else dict(num_layers=a.layers, embed_dim=a.width, num_heads=a.width // 128,
                                       num_kv_heads=None)
  config = TransformerConfig(**gpu.DENSE | {"remat": "none", "memory_length": 0} | sizes)
  batch, length, steps = (2, 32, 2) if a.tiny else (a.batch, a.length, 5)
  case = Case("training_products", config, batch, length, steps, a.tiny, a.gradients)
  for row in measure(case, a.form or list(FORMS), a.rounds):
    print(json.dumps(row), flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
