"""A plain decoder: tokens/s of whole steps without a memory, beside the same decoder in PyTorch.

`train/plain` has rotary positions, RMS norms, SwiGLU and no biases: 4 layers, width 192, 4 heads, bytes, 1.87 million
parameters on either side. 16 rows of 64 tokens; AdamW, gradients clipped at 1.0, float32, all cores. Ours is the step
that `gpt4x train` compiles and feeds. The peer is benchmarks/torch_decoder.py at its best: AdamW by `foreach`, AdamW
`fused`, and the latter with loss and gradients through `torch.compile`; all take turns, each has a row, and
`train/plain` is beside the fastest.
"""

from collections.abc import Callable, Iterator
import dataclasses

from benchmarks import harness
from benchmarks.harness import Round, Row

LENGTH, ROWS, STEPS = 64, 16, 30  # Steps of a round.


@dataclasses.dataclass(frozen=True)
class Case:
  length: int = LENGTH
  rows: int = ROWS
  steps: int = STEPS


def config():
  from gpt4x.models.config import TransformerConfig
  return TransformerConfig(
      vocab_size=256, num_layers=4, embed_dim=192, num_heads=4, mlp_dim=512, positions="rotary", norm="rms",
      norm_position="pre", activation="swiglu", mlp_bias=False, tie_embeddings=False, scan_layers=False)


def rows(rounds: int, case: Case = Case()) -> Iterator[Row]:
  found = harness.alternate({"ours": ours} | peers(), case, rounds)
  best = fastest(found)
  yield harness.compare("train/plain", "tokens/s", found["ours"], found[best], "tokens", goal="ratio >= 1.0")
  for name in peers():
    yield harness.compare(f"train/plain/{name}", "tokens/s", found["ours"], found[name], "tokens")


def peers() -> dict[str, harness.Make]:
  from benchmarks import torch_training
  makers = {"foreach": foreach, "fused": fused, "compiled": compiled}
  return {name: makers[name] for name in torch_training.VARIANTS}


def fastest(found: dict[str, list[Round]]) -> str:
  return max(found.keys() & peers().keys(), key=lambda name: harness.median(found[name], "tokens"))


def ours(case: Case) -> Callable[[], Round]:
  from benchmarks import training
  from gpt4x.models.language_model import LanguageModel
  return training.our_steps(LanguageModel(config()), case.rows, case.length, case.steps, weight_decay=0.1)


def foreach(case: Case) -> Callable[[], Round]:
  return _theirs(case, "foreach")


def fused(case: Case) -> Callable[[], Round]:
  return _theirs(case, "fused")


def compiled(case: Case) -> Callable[[], Round]:
  return _theirs(case, "compiled")


def _theirs(case: Case, variant: str) -> Callable[[], Round]:
  from benchmarks import torch_training, training
  trainer = torch_training.Trainer(config(), case.rows, case.length, variant, weight_decay=0.1, b2=0.999)
  tokens = training.random_tokens(256, case.rows, case.length + 1).astype("int64")

  def steps():
    for _ in range(case.steps):
      trainer.step(tokens, training.LEARNING_RATE)

  return lambda: {"tokens": case.steps * case.rows * case.length / harness.timed(steps)}
