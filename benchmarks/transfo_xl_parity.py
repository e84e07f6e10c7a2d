"""Compares converted Transformer-XL models with transformers 4.35.2, the last version that has them.

Random models over the grid of cutoffs, div_val, tied projections, tied embeddings, same_length, clamp_len, d_embed and
untie_r are saved by transformers as safetensors, as pytorch_model.bin and as the pytorch_model.bin of torch before
1.6. The three must give the same parameters, and these, over four segments with memory, the log-probabilities of
transformers. It prints the largest difference for each value of each option and exits with 1 if any is above 1e-4.
In the root of the repository, on Python 3.11:

  python3.11 -m venv .cache/hf && . .cache/hf/bin/activate
  pip install -r requirements.lock --no-deps
  pip install --no-deps --no-build-isolation -e .
  pip install torch --index-url https://download.pytorch.org/whl/cpu
  pip install transformers==4.35.2
  python benchmarks/transfo_xl_parity.py

It takes about 10 minutes on two cores, most of it for compiling; `--every=8` takes every eighth model.
"""

import argparse
import collections
import itertools
import os
import pathlib
import sys
import tempfile
import warnings

os.environ |= {"USE_TF": "0", "USE_FLAX": "0", "JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}
warnings.filterwarnings("ignore")

import jax
import numpy as np
import torch
import transformers

from gpt4x.interop import transfo_xl

BAR = 1e-4
SEGMENTS, LENGTH, ROWS, MEMORY = 4, 10, 2, 16
SIZES = dict(vocab_size=100, d_model=24, n_head=3, d_head=10, d_inner=40, n_layer=2, mem_len=MEMORY)
OPTIONS = dict(
    cutoffs=([], [20, 60]),
    div_val=(1, 4),
    proj_share_all_but_first=(True, False),
    tie_word_embeddings=(True, False),
    same_length=(True, False),
    clamp_len=(-1, 7),
    d_embed=(24, 32),
    untie_r=(True, False),
)


def random_model(options: dict) -> transformers.TransfoXLLMHeadModel:
  """With numbers large enough that attention is far from uniform and no bias is zero."""
  model = transformers.TransfoXLLMHeadModel(transformers.TransfoXLConfig(**SIZES, **options)).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, value in model.named_parameters():
      centre = 1.0 if "layer_norm.weight" in name else 0.0
      value.copy_(centre + 0.3 * torch.randn(value.shape, generator=generator))
  return model


def read_back(model: transformers.TransfoXLLMHeadModel, folder: pathlib.Path):
  """The converted model, having checked that it is the same from each of three formats."""
  model.save_pretrained(folder / "safetensors", safe_serialization=True)
  model.save_pretrained(folder / "zip", safe_serialization=False)
  model.save_pretrained(folder / "legacy", safe_serialization=False)
  torch.save(model.state_dict(), folder / "legacy" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
  language_model, params = transfo_xl.from_hugging_face(folder / "safetensors")
  for other in ("zip", "legacy"):
    _, others = transfo_xl.from_hugging_face(folder / other)
    jax.tree.map(np.testing.assert_array_equal, params, others)
  return language_model, params


def difference(model: transformers.TransfoXLLMHeadModel, folder: pathlib.Path) -> float:
  """The largest over four segments."""
  language_model, params = read_back(model, folder)
  log_probs = jax.jit(language_model.log_probs, compiler_options={"xla_backend_optimization_level": 0})
  tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (SEGMENTS, ROWS, LENGTH))
  theirs_memory = ours_memory = None
  worst = 0.0
  for segment in tokens:
    with torch.no_grad():
      output = model(torch.tensor(segment), mems=theirs_memory)
    theirs_memory = output.mems
    ours, ours_memory = log_probs(params, segment.astype(np.int32), ours_memory)
    worst = max(worst, float(np.abs(output.prediction_scores.numpy() - np.asarray(ours)).max()))
  return worst


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th model (default: all)")
  every = parser.parse_args().every
  grid = [dict(zip(OPTIONS, values)) for values in itertools.product(*OPTIONS.values())][::every]
  worst = collections.defaultdict(float)
  with tempfile.TemporaryDirectory() as folder:
    for i, options in enumerate(grid):
      found = difference(random_model(options), pathlib.Path(folder) / str(i))
      for name, value in (*options.items(), ("all", "")):
        worst[f"{name} {value}"] = max(worst[f"{name} {value}"], found)
      if not found <= BAR:
        print(f"{found:.1e} {options}")
  print(f"{len(grid)} models, {SEGMENTS} segments each: the largest difference of log-probabilities")
  for name, found in sorted(worst.items()):
    print(f"  {name:32} {found:.1e}")
  return 0 if worst["all "] <= BAR else 1


if __name__ == "__main__":
  sys.exit(main())
