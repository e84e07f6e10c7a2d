"""One GPU: training and decoding of the 1.3-billion-parameter decoder of gin_configs/models/dense_1.3b.gin.

    python -m benchmarks.gpu [ROW ...] [--batch=B] [--length=L] [--set=NAME=VALUE ...] [--out=DIR] [--tiny]

`--set` changes a field of TransformerConfig (`--set=remat=full --set=loss_chunk=256`, where memory is short), `--tiny`
runs everything at toy sizes on CPU. Of the project's requirements it needs jax, flax, optax, rich and gin-config (`pip
install gin-config`, pure Python); seqio, TensorFlow and t5x it does not import. The peer, in torch_decoder.py, needs
PyTorch 2.5 with CUDA; without it rows come without a peer.

`gpu/train/...` are tokens/s of the step that `gpt4x train` compiles: bfloat16 compute, float32 parameters, Adam,
gradients clipped, nothing rematerialised but attention's scores. The limit is a bfloat16 product of 8,192 x 8,192
matrices of normal numbers, so that its share is the MFU, causal attention counted once: a query meets M + (L + 1) / 2
keys. `/all-keys` counts all M + L, as PaLM does. `/memory` is the most that lay on the device, `/product` the limit and
its share of the published peak.

- `1.3b` has rotary positions and no memory. So has its peer, of as many parameters, with PyTorch's
  `scaled_dot_product_attention`, causal, `torch.compile`, bfloat16 autocast and fused AdamW.
- `1.3b-memory` has a memory of L, as in the file.
- `1.3b-xl` is Transformer-XL: a memory of L and relative positions.

`gpu/decode/b1` are tokens/s of 256 steps of one row, the last of a window of L, once its prompt is prefilled: greedy,
weights and cache in bfloat16, layers unrolled. The limit is that the weights (but for the embedding, of which a row is
looked up) and the cache are read once a step, at the bandwidth of a copy. The peer's cache is static, and its step a
CUDA graph (`torch.compile(mode="reduce-overhead")`).
"""

import argparse
import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import importlib.util
import multiprocessing
import os
import pathlib
import sys
import tempfile
from typing import Any

from benchmarks import decoding, harness, results, run, training
from benchmarks.harness import Round, Row
from gpt4x.errors import UserError

# Sides take memory as they need it, and there is more than one on the GPU.
ON_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_CLIENT_MEM_FRACTION": "0.95",
          "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
# What gin_configs/models/dense_1.3b.gin says, without what reads gin files, which imports seqio.
DENSE = dict(vocab_size=32_768, num_heads=16, num_kv_heads=8, memory_length=2048, positions="rotary", norm="rms",
             norm_position="pre", activation="swiglu", mlp_bias=False, tie_embeddings=False, attention_chunk=512,
             remat="full")
TINY = dict(vocab_size=256, num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, attention_chunk=16)


@dataclasses.dataclass(frozen=True)
class Case:
  name: str
  config: Any  # The TransformerConfig.
  rows: int  # B.
  length: int  # L; of decoding the window.
  steps: int  # Of a round.
  tiny: bool  # On CPU, in float32 and, in PyTorch, without compilation.


def make_cases(batch: int, length: int, changes: dict[str, Any], tiny: bool) -> list[Case]:
  from gpt4x.models.config import TransformerConfig
  config = lambda **own: TransformerConfig(**DENSE | {"remat": "none"} | (TINY if tiny else {}) | own | changes)
  batch, length, steps, window, tokens = (2, 32, 2, 128, 64) if tiny else (batch, length, 5, length, 256)
  return [
      Case("gpu/train/1.3b", config(memory_length=0), batch, length, steps, tiny),
      Case("gpu/train/1.3b-memory", config(memory_length=length), batch, length, steps, tiny),
      Case("gpu/train/1.3b-xl", config(memory_length=length, positions="relative"), batch, length, steps, tiny),
      Case("gpu/decode/b1", config(memory_length=0, scan_layers=False), 1, window, tokens, tiny),
  ]


def rows(case: Case, with_peer: bool, rounds: int, environment: Mapping[str, str]) -> Iterator[Row]:
  if case.name.startswith("gpu/train/"):
    # The peer has no memory.
    peer = {"theirs": train_peer} if with_peer and not case.config.memory_length else {}
    sides, make_rows = {"ours": train, **peer, "limit": product}, _train_rows
  else:
    peer = {"theirs": decode_peer} if with_peer else {}
    sides, make_rows = {"ours": decode, **peer, "limit": copy}, _decode_rows
  found = harness.alternate(sides, case, rounds, environment)
  yield from make_rows(case, found["ours"], found.get("theirs"), found["limit"])


def _train_rows(case: Case, ours: list[Round], theirs: list[Round] | None, limit: list[Round]) -> Iterator[Row]:
  speed, peak = harness.median(ours, "tokens"), harness.median(limit, "flops")
  flops = speed * case.config.flops_per_token(case.length, training=True)
  all_keys = speed * dataclasses.replace(case.config, attention_chunk=None).flops_per_token(
      case.length, training=True, causal=False)
  yield harness.compare(case.name, "tokens/s", ours, theirs, "tokens", limit_share=flops / peak,
                        goal=("ratio >= 1 and " if theirs else "") + "limit_share >= 0.5")
  yield Row(f"{case.name}/all-keys", all_keys / 1e12, "TFLOP/s", limit_share=all_keys / peak)
  yield harness.compare(f"{case.name}/memory", "GiB", ours, theirs, "device_memory")
  yield Row(f"{case.name}/product", peak / 1e12, "TFLOP/s", limit_share=peak / limit[0]["published"])


def _decode_rows(case: Case, ours: list[Round], theirs: list[Round] | None, limit: list[Round]) -> Iterator[Row]:
  bandwidth = harness.median(limit, "bytes")
  share = harness.median(ours, "tokens") * ours[0]["bytes"] / bandwidth
  yield harness.compare(case.name, "tokens/s", ours, theirs, "tokens", limit_share=share,
                        goal=("ratio >= 1 and " if theirs else "") + "limit_share >= 0.7")
  yield Row(f"{case.name}/copy", bandwidth / 1e9, "GB/s")


def train(case: Case) -> Callable[[], Round]:
  import jax

  from gpt4x.models.language_model import LanguageModel
  run_steps = training.our_steps(LanguageModel(case.config), case.rows, case.length, case.steps, num_devices=1)

  def round() -> Round:
    found = run_steps()
    memory = harness.peak_memory() if case.tiny else jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30
    return found | {"device_memory": memory}

  return round


def train_peer(case: Case) -> Callable[[], Round]:
  import torch

  from benchmarks import torch_decoder
  device, dtype = _torch_device(case)
  torch.set_float32_matmul_precision("high")
  with torch.device(device):
    model = torch_decoder.Decoder(case.config, dtype, case.length)
    tokens = torch.tensor(training.random_tokens(case.config.vocab_size, case.rows, case.length)).long()
  targets = tokens.roll(-1, 1)
  optimizer = torch.optim.AdamW(model.parameters(), training.LEARNING_RATE, weight_decay=0.0, fused=True)
  compiled = model.loss if case.tiny else torch.compile(model.loss)

  def run_steps():
    for _ in range(case.steps):
      with torch.autocast(device, torch.bfloat16, enabled=not case.tiny):
        loss = compiled(tokens, targets)
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      optimizer.zero_grad(set_to_none=True)
    if not case.tiny:
      torch.cuda.synchronize()

  def round() -> Round:
    seconds = harness.timed(run_steps)
    memory = harness.peak_memory() if case.tiny else torch.cuda.max_memory_allocated() / 2**30
    return {"tokens": case.steps * tokens.numel() / seconds, "device_memory": memory}

  return round


def decode(case: Case) -> Callable[[], Round]:
  import jax
  import jax.numpy as jnp

  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling
  from gpt4x.models.language_model import LanguageModel
  c, model = case.config, LanguageModel(case.config)
  params = jax.jit(lambda key: jax.tree.map(lambda x: x.astype(c.compute_dtype), model.init(key)))(jax.random.key(0))
  engine = Engine(model, case.length, eos_id=None, sampling=Sampling(temperature=0))
  prompts = training.random_tokens(c.vocab_size, case.rows, case.length - case.steps - 1)
  cached = c.num_layers * case.rows * case.length * 2 * c.num_kv_heads * c.head_dim
  numbers = c.num_params() - c.vocab_size * c.embed_dim + cached
  read = numbers * jnp.dtype(c.compute_dtype).itemsize

  def round() -> Round:
    _, step = decoding.our_seconds(engine, params, prompts, case.steps)
    return {"tokens": case.rows / step, "bytes": read}

  return round


def decode_peer(case: Case) -> Callable[[], Round]:
  import torch

  from benchmarks import torch_decoder
  device, dtype = _torch_device(case)
  with torch.device(device):
    model = torch_decoder.Decoder(case.config, dtype, case.length, cached=True).to(dtype)
  step = model.step if case.tiny else torch.compile(model.step, mode="reduce-overhead", fullgraph=True)

  @torch.no_grad()
  def run_steps():
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    position = torch.tensor([case.length - case.steps], device=device)
    for _ in range(case.steps):
      token.copy_(step(token, position))  # The next step overwrites what this one returns.
      position += 1
    return token.item()  # Waits.

  return lambda: {"tokens": case.steps / harness.timed(run_steps)}


def product(case: Case) -> Callable[[], Round]:
  """FLOP/s of a matrix product in the compute dtype, of many in turn the best, and the published peak."""
  import jax
  import jax.numpy as jnp

  from gpt4x.training import hardware
  size, dtype = 256 if case.tiny else 8192, case.config.compute_dtype
  factors = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
  multiply = jax.jit(lambda left, right: left @ right)
  published, _ = hardware.peak_flops(dtype, 1)
  return lambda: {"flops": 2 * size**3 / _seconds(multiply, *factors), "published": published}


def copy(case: Case) -> Callable[[], Round]:
  """Bytes read and written per second by an operation on each number of an array far larger than any cache."""
  import jax
  import jax.numpy as jnp
  numbers = jnp.zeros(2**20 if case.tiny else 2**30, jnp.float32)
  add = jax.jit(lambda x: x + 1)
  return lambda: {"bytes": 2 * numbers.nbytes / _seconds(add, numbers)}


def _seconds(function: Callable, *arguments: Any) -> float:
  """Of a call, of the best of some times in which many follow upon each other and the last is waited for."""
  def call(times: int = 16):
    for _ in range(times):
      result = function(*arguments)
    result.block_until_ready()

  call(1)
  return min(harness.timed(call) for _ in range(5)) / 16


def _torch_device(case: Case) -> tuple[str, Any]:
  import torch
  return ("cpu", torch.float32) if case.tiny else ("cuda", torch.bfloat16)


def describe_device(environment: Mapping[str, str]) -> tuple[str, str, bool]:
  """JAX's platform, what the device is and the versions of libraries, and whether the peer can run on it."""
  os.environ.update(environment)
  import jax
  device = jax.devices()[0]
  description, with_peer = f"{device.device_kind}, JAX {jax.__version__}", False
  if importlib.util.find_spec("torch"):
    import torch
    description += f", PyTorch {torch.__version__}"
    with_peer = device.platform == "cpu" or torch.cuda.is_available()
  return device.platform, description, with_peer


def main(arguments: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("rows", nargs="*", metavar="ROW", help="some of the rows, e.g. gpu/train/1.3b (default: all)")
  parser.add_argument("--batch", type=int, default=8, help="rows of a training batch (default: %(default)s)")
  parser.add_argument("--length", type=int, default=2048,
                      help="of training segments, and window of decoding (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=5, help="rounds that are counted (default: %(default)s)")
  parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of TransformerConfig")
  parser.add_argument("--no_peer", action="store_true", help="leave PyTorch out")
  parser.add_argument("--out", type=pathlib.Path,
                      help="folder of results.json and RESULTS.md (default: benchmarks, or with --tiny none)")
  parser.add_argument("--tiny", action="store_true", help="toy sizes, on CPU")
  a = parser.parse_args(arguments)
  try:
    cases = make_cases(a.batch, a.length, dict(map(_assignment, a.set)), a.tiny)
  except (UserError, TypeError) as error:
    parser.error(str(error))
  if unknown := set(a.rows) - {case.name for case in cases}:
    parser.error(f"no row {', '.join(unknown)}: choose some of {', '.join(case.name for case in cases)}")
  environment = harness.ON_CPU if a.tiny else ON_GPU
  # Asked in a process of its own, for it would keep memory of the device.
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    platform, description, with_peer = pool.submit(describe_device, environment).result()
  if platform != "gpu" and not a.tiny:
    print(f"no GPU here: JAX finds {description}; --tiny runs everything at toy sizes on CPU", file=sys.stderr)
    return 1
  if not with_peer:
    print("no PyTorch for this device here: the rows come without a peer", file=sys.stderr)
  sizes = "toy sizes" if a.tiny else f"B {a.batch}, L {a.length}"
  described, failed = run.described(", ".join([description, sizes, *a.set, run.machine()]), a.rounds), False
  with tempfile.TemporaryDirectory() as nowhere:
    folder = a.out or (pathlib.Path(nowhere) if a.tiny else run.HERE)
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
      if a.rows and case.name not in a.rows:
        continue
      try:
        for row in rows(case, with_peer and not a.no_peer, a.rounds, environment):
          records = run.keep([row], described, folder)
        results.print_table([record for record in records if f"{record['name']}/".startswith(f"{case.name}/")])
      except RuntimeError as error:  # Of a side, such as that memory is short. The other rows may do.
        print(f"{case.name}: {error}", file=sys.stderr)
        failed = True
  return int(failed)


def _assignment(text: str) -> tuple[str, Any]:
  name, _, value = text.partition("=")
  try:
    return name, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, value


if __name__ == "__main__":
  sys.exit(main())
