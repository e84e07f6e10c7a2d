"""Exported decoders: how far their logits are from JAX's, and how soon run.py gives its first token.

    python -m benchmarks.compression.exports [--rounds=5] [--model_dir=DIR]

The model has 43M parameters, 12 layers of width 512 and a window of 640; without DIR, a run's, its parameters are
random. `onnx_difference` and `tflite_difference` are the largest absolute difference of any logit over three windows of
random tokens, one at a time behind a prompt of 100, from those of JAX's decoding step. `edge_first_token` is the time
from the start of `python run.py` to its first character, in an environment of numpy and onnxruntime alone, with the
files in the page cache.
"""

import argparse
from collections.abc import Iterator
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import harness, results, run
from benchmarks.harness import Row

WINDOW, PROMPT = 640, 100
FORMATS = "onnx", "tflite"
DIFFERENCE, SECONDS = 0.0001, 1.5  # At most.
ENVIRONMENT = ("numpy", "onnxruntime")


def rows(rounds: int, model_dir: str | None = None, sizes: dict[str, Any] | None = None) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as folder:
    made = pathlib.Path(folder)
    window = harness.in_a_process(export, made, model_dir, sizes or {})
    for kind in FORMATS:
      found = harness.in_a_process(difference, made, kind, window)
      yield Row(f"compression/{kind}_difference", found, "logits", goal=f"value <= {DIFFERENCE}")
    python = environment(made / "environment")
    seconds = [first_token(python, made / "onnx") for _ in range(1 + rounds)][1:]  # The first compiles Python's files.
    yield Row("compression/edge_first_token", sorted(seconds)[len(seconds) // 2], "s", goal=f"value <= {SECONDS}")


def export(folder: pathlib.Path, model_dir: str | None, sizes: dict[str, Any]) -> int:
  """Writes the bundles, and the logits that JAX gives, `logits.npy` of `tokens.npy`; returns the window."""
  import jax
  import numpy as np
  import seqio

  from gpt4x.data import vocabularies
  from gpt4x.interop import bundles
  from gpt4x.models.config import TransformerConfig
  from gpt4x.models.language_model import LanguageModel
  vocabulary, window = seqio.ByteVocabulary(), sizes.pop("window", WINDOW)
  if model_dir:
    from gpt4x.commands import reading
    from gpt4x.partitioning import Partitioner
    experiment = reading.saved_experiment(model_dir, data=False)
    model, vocabulary = experiment.language_model, vocabularies.load(model_dir)
    _, params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), None)
  else:
    model = LanguageModel(TransformerConfig(**{
        "vocab_size": 4096, "num_heads": 8, "num_layers": 12, "embed_dim": 512, "norm_position": "pre", **sizes}))
    params = jax.jit(model.init)(jax.random.key(0))
  decoder = bundles.Decoder.of(model, params, window)
  for kind in FORMATS:
    bundles.save(folder / kind, kind, decoder, vocabulary)
  tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, 3 * window + PROMPT, dtype=np.int32)
  prompt = tokens[None, :PROMPT]
  memory = model.initial_memory(1, window, projected=True)
  logits, memory = jax.jit(model.prefill)(params, prompt, np.ones_like(prompt), memory)
  cache, step, found = model.start_decoding(params, memory), jax.jit(model.decode_step, donate_argnums=2), [logits[0]]
  for token in tokens[PROMPT:]:
    logits, cache = step(params, token[None], cache)
    found.append(logits[0])
  np.save(folder / "tokens.npy", tokens)
  np.save(folder / "logits.npy", np.stack(found))
  return window


def difference(folder: pathlib.Path, kind: str, window: int) -> float:
  """The largest of any logit, by the code of the bundle itself."""
  import numpy as np
  tokens, expected = np.load(folder / "tokens.npy").tolist(), np.load(folder / "logits.npy")
  decoder = opened(folder / kind)
  worst = np.abs(decoder.read(tokens[:PROMPT]) - expected[0]).max()
  for token, logits in zip(tokens[PROMPT:], expected[1:], strict=True):
    worst = max(worst, np.abs(decoder([token]) - logits).max())
  return float(worst)


def environment(folder: pathlib.Path) -> pathlib.Path:
  """The Python of an environment with what run.py needs, of the locked versions."""
  subprocess.run([sys.executable, "-m", "venv", folder], check=True)
  python = folder / "bin" / "python"
  subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                  f"--constraint={run.HERE.parent / 'requirements.lock'}", *ENVIRONMENT], check=True)
  return python


def first_token(python: pathlib.Path, folder: pathlib.Path) -> float:
  """Seconds from the start of run.py to its first character, which comes with the first token."""
  without = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
  began = time.perf_counter()
  process = subprocess.Popen([python, folder / "run.py", "--prompt=def main(", "--max_tokens=1", "--temperature=0"],
                             stdout=subprocess.PIPE, env=without)
  first = process.stdout.read(1)
  seconds = time.perf_counter() - began
  process.communicate()
  if process.returncode or not first:
    raise RuntimeError(f"run.py ended with {process.returncode}")
  return seconds


def opened(folder: pathlib.Path) -> Any:
  """The model of a bundle, by its own code: called with tokens it gives logits, and `read` takes a prompt."""
  written = json.loads((folder / "config.json").read_text())
  return load(folder / "run.py").Model(written, load(folder / "decoder.py").load)


def load(path: pathlib.Path) -> Any:
  """A file of a bundle as a module."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--model_dir", help="a run whose model is exported; its window is 640 here")
  arguments = parser.parse_args()
  described, names = run.described(run.machine(), arguments.rounds), []
  for row in rows(arguments.rounds, arguments.model_dir):
    names.append(row.name)
    records = run.keep([row], described)
  results.print_table([record for record in records if record["name"] in names])


if __name__ == "__main__":
  main()
