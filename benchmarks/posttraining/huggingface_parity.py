"""Models of Llama's family, converted: how far their logits are from those of transformers.

    python -m benchmarks.posttraining.huggingface_parity [--python=PYTHON]

Random models of each family (Llama and Mistral, Qwen2 and Qwen3, tied and not, in shards) are made by transformers, in
an environment of its own: that of PYTHON, or one that is made for the time. `huggingface_parity` is the largest
absolute difference of any logit over 2 x 128 tokens: of all at once, of four segments with memory, of decoding steps
behind a prompt, and of transformers itself on what `gpt4x export --format=huggingface` writes of the converted model.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import harness, results, run
from benchmarks.harness import Row

ENVIRONMENT = ("torch==2.13.0", "transformers==5.24.0", "numpy")
DIFFERENCE = 0.0001  # At most.
SEGMENTS, PROMPT = 4, 16
_REFERENCE = pathlib.Path(__file__).with_name("reference_models.py")


def rows(python: pathlib.Path | None = None) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    python = python or environment(folder / "environment")
    subprocess.run([python, _REFERENCE, "make", folder], check=True)
    names = sorted(path.parent.name for path in folder.glob("*/logits.npy"))
    worst = [harness.in_a_process(difference, folder, name) for name in names]
    printed = subprocess.run([python, _REFERENCE, "read", folder], check=True, capture_output=True, text=True).stdout
    again = json.loads(printed.splitlines()[-1])
    for name, ours in zip(names, worst):
      print(f"{name}: {ours:.1e}, and by transformers again {again[name]:.1e}", file=sys.stderr)
    yield Row("posttraining/huggingface_parity", max(*worst, *again.values()), "logits",
              goal=f"value <= {DIFFERENCE}")


def environment(folder: pathlib.Path) -> pathlib.Path:
  """The Python of an environment with the reference."""
  subprocess.run([sys.executable, "-m", "venv", folder], check=True)
  python = folder / "bin" / "python"
  subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVIRONMENT], check=True)
  return python


def difference(folder: pathlib.Path, name: str) -> float:
  """The largest of one model, in each way that there is to come to its logits; writes it again as NAME_again."""
  import jax
  import numpy as np

  from gpt4x.interop import decoding_weights, hugging_face
  tokens, expected = np.load(folder / "tokens.npy"), np.load(folder / name / "logits.npy")
  model, params = hugging_face.load(folder / name, dtype="float32")
  hugging_face.save(folder / f"{name}_again", model.config, decoding_weights.named(params), window=256)
  count, length = tokens.shape
  segment, logits = jax.jit(model.logits), jax.jit(model.logits)(params, tokens, model.initial_memory(count))[0]
  found = [np.asarray(logits)]

  memory, parts = model.initial_memory(count, length), []
  for part in np.split(tokens, SEGMENTS, 1):
    logits, memory = segment(params, part, memory)
    parts.append(np.asarray(logits))
  found.append(np.concatenate(parts, 1))

  prompt, memory = tokens[:, :PROMPT], model.initial_memory(count, length, projected=True)
  logits, memory = jax.jit(model.prefill)(params, prompt, np.ones_like(prompt), memory)
  cache, step, parts = model.start_decoding(params, memory), jax.jit(model.decode_step), [np.asarray(logits)]
  for token in tokens[:, PROMPT:].T:
    logits, cache = step(params, token, cache)
    parts.append(np.asarray(logits))
  differences = [np.abs(one - expected).max() for one in found]
  return float(max(*differences, np.abs(np.stack(parts, 1) - expected[:, PROMPT - 1:]).max()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--python", type=pathlib.Path, help="of an environment with torch and transformers")
  arguments = parser.parse_args()
  records = run.keep(list(rows(arguments.python)), run.described(run.machine(), 1))
  results.print_table([record for record in records if record["name"] == "posttraining/huggingface_parity"])


if __name__ == "__main__":
  main()
