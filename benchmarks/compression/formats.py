"""One model in every format: what it takes, what it says of held-out text, and how fast it decodes.

The model is experiments/quickstart.gin in 8 layers of width 256, 7.4M parameters. `formats/NAME` is tokens/s of one
row, all cores, in turn, beside the float32 model in the engine that `gpt4x generate` has; `/size` is megabytes, of
parameters or of the model's file, and `/bits_per_byte` is by `gpt4x eval` on the whole validation split. Exported files
compute what the model computes that they are of.

    python -m benchmarks.compression.formats [--rounds=5] [--steps=200] [--dry_run]
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

from benchmarks import decoding, harness, run
from benchmarks.compression import exports
from benchmarks.compression.decoding import greedy
from benchmarks.harness import Round, Row
from benchmarks.media import runs

SIZES = {"TransformerConfig.num_layers": 8, "TransformerConfig.embed_dim": 256, "TransformerConfig.num_heads": 4,
         "TransformerConfig.mlp_dim": 1024}
COMPRESSED = {"float32": (), "int8": ("--quantize=int8",), "int8-all": ("--quantize=int8-all",),
              "int4": ("--quantize=int4",), "int8-half": ("--prune=sparsegpt:50%", "--quantize=int8")}
EXPORTED = {"onnx": "float32", "onnx-int8-all": "int8-all", "tflite": "float32"}


@dataclasses.dataclass(frozen=True)
class Case:
  folder: str
  steps: int = 256  # Of a round.


def rows(bench: runs.Bench, rounds: int, steps: int, case: Case | None = None, **bindings: Any) -> Iterator[Row]:
  bench.gpt4x("vocabulary", "--task=stdlib_bytes", "--size=4096", "--output=stdlib_spm")
  bench.train("float32", "experiments/quickstart.gin", **{**SIZES, "TRAIN_STEPS": steps, "EVAL_PERIOD": None,
                                                          **bindings})
  for name, flags in COMPRESSED.items():
    directory = bench.folder / name
    if flags:
      bench.gpt4x("compress", f"--model_dir={bench.folder / 'float32'}", f"--output={directory}", "--max_batches=8",
                  *flags)
    yield Row(f"compression/formats/{name}/size", bench.call(parameters_size, str(directory)) / 1e6, "MB")
    yield Row(f"compression/formats/{name}/bits_per_byte", bench.evaluate(str(directory))["bits_per_byte"], "bits/byte")
  for name, model in EXPORTED.items():
    output = bench.folder / name
    bench.gpt4x("export", f"--model_dir={bench.folder / model}", f"--format={name.partition('-')[0]}",
                f"--output={output}")
    size = sum(path.stat().st_size for path in output.iterdir() if path.name.startswith(("model", "weights")))
    yield Row(f"compression/formats/{name}/size", size / 1e6, "MB")
  side = lambda make, name: functools.update_wrapper(functools.partial(make, name), make)
  sides = {name: side(engine, name) for name in COMPRESSED} | {name: side(exported, name) for name in EXPORTED}
  found = harness.alternate(sides, case or Case(str(bench.folder)), rounds)
  for name in sides:
    yield harness.compare(f"compression/formats/{name}", "tokens/s", found[name], found["float32"], "tokens")


def parameters_size(directory: str) -> int:
  from gpt4x.compression.integers import num_bytes
  return num_bytes(_restored(directory)[1])


def engine(name: str, case: Case) -> Callable[[], Round]:
  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling
  model, params, window = _restored(f"{case.folder}/{name}")
  decoder = Engine(model, window, eos_id=None, sampling=Sampling(temperature=0))
  return lambda: {"tokens": 1 / decoding.our_seconds(decoder, params, [[1] * 63], case.steps)[1]}


def exported(name: str, case: Case) -> Callable[[], Round]:
  return greedy(exports.opened(pathlib.Path(case.folder, name)), [1] * 64, case.steps)


def _restored(directory: str) -> tuple[Any, Any, int]:
  """The model of a directory, its parameters, and the window that it decodes with."""
  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(directory, data=False)
  _, params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1), None)
  return experiment.language_model, params, Generator(directory, experiment).window


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.formats")
  parser.add_argument("--rounds", type=int, default=5, help="of decoding (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix="formats-") as folder:
    bench = runs.Bench("", 1, pathlib.Path(folder))
    run.keep_seeds(rows(bench, arguments.rounds, arguments.steps), 1, "python -m benchmarks.compression.formats",
                   arguments.dry_run)


if __name__ == "__main__":
  main()
