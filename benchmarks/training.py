"""Training: tokens/s of a whole step (memory on, Adam, gradients clipped) and the memory that takes.

The peer is TransfoXLLMHeadModel of transformers 4.35.2 on PyTorch, with as many parameters, the same batch and the
same memory; ours is the step that `gpt4x train` compiles and feeds, with `loss_chunk` 16 where there are 32,000 words.
Float32, all cores. The limit is a matrix product of 2048 x 2048, against the FLOPs of the model's dense products
(`TransformerConfig.flops_per_token(causal=False)`). Peak memory is that of the whole process, libraries and compilation
included.
"""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

from benchmarks import harness, peer
from benchmarks.harness import Round, Row


@dataclasses.dataclass(frozen=True)
class Case:
  name: str
  sizes: peer.Sizes
  length: int  # L.
  rows: int  # B.
  steps: int  # Of a round.

  @property
  def tokens(self) -> int:
    return self.rows * self.length


CASES = (
    Case("train/6x512", peer.Sizes(6, 512, 8, 2048, memory=128), length=128, rows=8, steps=3),
    Case("train/12x512", peer.Sizes(12, 512, 8, 2048, memory=256), length=256, rows=4, steps=2),
    Case("train/4x256", peer.Sizes(4, 256, 4, 1024, memory=128), length=128, rows=16, steps=6),
    Case("train/4x256-v32k", peer.Sizes(4, 256, 4, 1024, memory=128, vocabulary=32_000), length=128, rows=16, steps=2),
)
LEARNING_RATE = 1e-4


def rows(rounds: int) -> Iterator[Row]:
  for case in CASES:
    found = harness.alternate({"ours": ours, "theirs": theirs, **harness.PRODUCTS}, case, rounds)
    peer.check_parameters(case.sizes, found["theirs"][0]["parameters"])
    speed = harness.compare(case.name, "tokens/s", found["ours"], found["theirs"], "tokens", goal="ratio >= 1.6")
    flops = peer.ours(case.sizes).config.flops_per_token(case.length, training=True, causal=False)
    yield dataclasses.replace(speed, limit_share=speed.value * flops / harness.product_limit(found))
    yield harness.compare(f"{case.name}/memory", "GiB", found["ours"], found["theirs"], "peak_memory")


def ours(case: Case) -> Callable[[], Round]:
  return our_steps(peer.ours(case.sizes), case.rows, case.length, case.steps)


def our_steps(model: Any, rows: int, length: int, steps: int, weight_decay: float = 0.0,
              num_devices: int | None = None) -> Callable[[], Round]:
  """Rounds of so many steps of a LanguageModel, as `gpt4x train` compiles and feeds them; on all devices by default."""
  import jax
  import numpy as np

  from gpt4x.objectives.next_token import NextToken
  from gpt4x.partitioning import Partitioner
  from gpt4x.training import initial_state, optimizers
  from gpt4x.training.step import TrainStep

  partitioner = Partitioner(num_devices=num_devices)
  partitioner.check_batch(rows)
  optimizer = optimizers.adamw(LEARNING_RATE, b2=0.999, weight_decay=weight_decay)
  step = TrainStep(model, NextToken(), optimizer, clip_norm=1.0)
  shapes = initial_state.state_shapes(step, rows, model.config.memory_length, partitioner)
  train_state = initial_state.init_state(step, shapes, partitioner)
  tokens = random_tokens(model.config.vocab_size, rows, length)
  batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": np.roll(tokens, -1, 1),
           "decoder_segment_ids": np.ones_like(tokens), "decoder_loss_weights": np.ones(tokens.shape, np.float32)}
  place = lambda: {name: partitioner.global_array(values, rows) for name, values in batch.items()}
  with partitioner.activate():
    compiled = step.jit(shapes).lower(train_state, place()).compile()

  def run():
    nonlocal train_state
    with partitioner.activate():
      for _ in range(steps):
        train_state, metrics = compiled(train_state, place())
      jax.block_until_ready(metrics)

  return lambda: {"tokens": steps * tokens.size / harness.timed(run)}


def theirs(case: Case) -> Callable[[], Round]:
  import torch

  model = peer.theirs(case.sizes).train()
  optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
  tokens = torch.tensor(random_tokens(case.sizes.vocabulary, case.rows, case.length)).long()
  memory = None

  def steps():
    nonlocal memory
    for _ in range(case.steps):
      output = model(tokens, mems=memory, labels=tokens)
      memory = output.mems
      output.loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      optimizer.zero_grad(set_to_none=True)

  parameters = sum(parameter.numel() for parameter in model.parameters())
  return lambda: {"tokens": case.steps * case.tokens / harness.timed(steps), "parameters": parameters}


def random_tokens(vocabulary: int, rows: int, length: int):
  """[rows, length] int32."""
  import numpy as np
  return np.random.default_rng(0).integers(0, vocabulary, (rows, length), np.int32)
