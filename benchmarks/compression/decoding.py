"""Decoding with integers: tokens/s of one row, beside our own float32 step in JAX and beside llama.cpp.

    python -m benchmarks.compression.decoding [--rounds=5] [--llama_python=PYTHON]

12 layers of width 512, 8 heads, a window of 640 that is full, 4,096 tokens, random parameters, all cores, sides in
turn. `decode_int8` and `decode_int8_all` are the models that `gpt4x compress` makes, in the engine that `generate` has;
`decode_onnx_int8` is the exported `int8-all`, by the code of its folder. Their peer is the float32 model in the engine.
`llama_cpp` is `int8-all` of a model of Llama's architecture and nearly as many parameters, MLP 1,344, in the engine and
as `llama_cpp/onnx` in ONNX Runtime; its peer is llama.cpp on the same model as `gpt4x export --format=gguf-q8_0` writes
it, behind 512 tokens. PYTHON is that of an environment with llama-cpp-python; without it these rows are left out.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import functools
import os
import pathlib
import subprocess
import tempfile
import time
from typing import Any

from benchmarks import decoding, harness, results, run
from benchmarks.compression import exports
from benchmarks.harness import Round, Row

SIZES = {"vocab_size": 4096, "num_heads": 8, "num_layers": 12, "embed_dim": 512, "norm_position": "pre",
         "scan_layers": False}
LLAMA = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "mlp_bias": False, "tie_embeddings": False,
         "mlp_dim": 1344}
FASTER_JAX, FASTER_ONNX, SHARE_OF_LLAMA = 2.0, 2.8, 0.7  # At least.


@dataclasses.dataclass(frozen=True)
class Case:
  sizes: tuple[tuple[str, Any], ...]
  window: int = 640
  steps: int = 128  # Of a round.
  folder: str = ""  # Of model.gguf.
  llama_python: str = ""


def rows(rounds: int, llama_python: str = "", sizes: dict[str, Any] | None = None, **case: int) -> Iterator[Row]:
  own = {**SIZES, **(sizes or {})}
  found = harness.alternate({"float32": float32, "int8": int8, "int8_all": int8_all, "onnx": onnx_int8_all},
                            Case(tuple(own.items()), **case), rounds)
  compare = functools.partial(harness.compare, unit="tokens/s", measured="tokens")
  yield compare("compression/decode_int8", ours=found["int8"], peer=found["float32"])
  yield compare("compression/decode_int8_all", ours=found["int8_all"], peer=found["float32"],
                goal=f"ratio >= {FASTER_JAX}")
  yield compare("compression/decode_onnx_int8", ours=found["onnx"], peer=found["float32"],
                goal=f"ratio >= {FASTER_ONNX}")
  if not llama_python:
    return
  with tempfile.TemporaryDirectory() as folder:
    one = Case(tuple({**own, **LLAMA, **(sizes or {})}.items()), folder=folder, llama_python=llama_python, **case)
    harness.in_a_process(write_gguf, one)
    found = harness.alternate({"int8_all": int8_all, "onnx": onnx_int8_all, "llama": llama}, one, rounds)
  yield compare("compression/llama_cpp", ours=found["int8_all"], peer=found["llama"], goal=f"ratio >= {SHARE_OF_LLAMA}")
  yield compare("compression/llama_cpp/onnx", ours=found["onnx"], peer=found["llama"])


def float32(case: Case) -> Callable[[], Round]:
  return _engine(case, *_model(case))


def int8(case: Case) -> Callable[[], Round]:
  return _engine(case, *_model(case, "int8"))


def int8_all(case: Case) -> Callable[[], Round]:
  return _engine(case, *_model(case, "int8-all"))


def onnx_int8_all(case: Case) -> Callable[[], Round]:
  import seqio

  from gpt4x.interop import bundles
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made) / "onnx"
    bundles.save(folder, "onnx", bundles.Decoder.of(*_model(case, "int8-all"), case.window), seqio.ByteVocabulary())
    decoder = exports.opened(folder)
  return greedy(decoder, [1] * case.window, case.steps)


def greedy(decoder: Any, prompt: list[int], steps: int) -> Callable[[], Round]:
  """So many more tokens of an exported model at each call."""
  token = int(decoder.read(prompt).argmax())

  def decode() -> Round:
    nonlocal token
    start = time.perf_counter()
    for _ in range(steps):
      token = int(decoder([token]).argmax())
    return {"tokens": steps / (time.perf_counter() - start)}

  return decode


def llama(case: Case) -> Callable[[], Round]:
  command = [case.llama_python, pathlib.Path(__file__).with_name("llama_step.py"), f"{case.folder}/model.gguf",
             str(case.window), str(case.steps // 2), str(len(os.sched_getaffinity(0)))]
  without = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

  def decode() -> Round:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=without)
    return {"tokens": 1 / float(done.stdout)}

  return decode


def write_gguf(case: Case) -> None:
  from gpt4x.interop import decoding_weights, gguf_files
  model, params = _model(case)
  gguf_files.save(case.folder, model.config, decoding_weights.named(params), case.window, "gguf-q8_0")


def config(case: Case) -> Any:
  from gpt4x.models.config import TransformerConfig
  return TransformerConfig(**dict(case.sizes))


def _model(case: Case, how: str = "") -> tuple[Any, Any]:
  """A model and its parameters: float32, or as `gpt4x compress` makes it."""
  import jax

  from gpt4x.compression.quantization import Quantization
  from gpt4x.models.language_model import LanguageModel
  model = LanguageModel(config(case), form=None)
  params = jax.jit(model.init)(jax.random.key(0))
  if not how:
    return model, params
  form = Quantization("int8", activations=how == "int8-all", stored=True)
  changes = {"memory_dtype": "int8"} if how == "int8-all" else {}
  params = jax.jit(lambda params: form(params, model.declared[1]))(params)
  return LanguageModel(dataclasses.replace(model.config, **changes), form=form), params


def _engine(case: Case, model: Any, params: Any) -> Callable[[], Round]:
  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling
  engine = Engine(model, case.window, eos_id=None, sampling=Sampling(temperature=0))
  return lambda: {"tokens": 1 / decoding.our_seconds(engine, params, [[1] * 63], case.steps + 32)[1]}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--llama_python", default="", help="the Python of an environment with llama-cpp-python")
  parser.add_argument("--dry_run", action="store_true", help="print the rows and keep none")
  arguments = parser.parse_args()
  described, names = run.described(run.machine(), arguments.rounds), []
  for row in rows(arguments.rounds, arguments.llama_python):
    if arguments.dry_run:
      print(row, flush=True)
      continue
    names.append(row.name)
    records = run.keep([row], described)
  if names:
    results.print_table([record for record in records if record["name"] in names])


if __name__ == "__main__":
  main()
