"""Decoding: tokens/s of 512 new tokens, greedy, after prompts of 128 and 2,048 tokens, alone and 16 at a time.

The peer is `generate` of TransfoXLLMHeadModel (transformers 4.35.2, PyTorch) with its memory: 12 layers, width 512, 8
heads, MLP 2,048, bytes, as many parameters as ours. Both attend to the whole text: a memory, or window, of the prompt's
length and 512. Float32, all cores.

A step costs either side the same however long the text has grown, as does a piece of the prompt (both memories have
their whole length from the start, and are full of zeros then). So a part is timed, of the 512 steps and of a prompt of
which there is more than a piece of 512: `decode/...` is 512 tokens over the time that the whole prompt and 512 steps
would take, and `decode/.../prefill` the prompt's tokens per second alone. The peer takes its prompt in such pieces,
as in one it would not fit into memory; ours goes by segments of at most 128, the first of the prompt's positions being
BOS.

The limit is that of the steps alone: the weights, and the keys and values of the window, are read once for each step,
at the bandwidth of a copy (bytes read and written per second).
"""

from collections.abc import Callable, Iterator
import dataclasses
import time
from typing import Any

from benchmarks import harness, peer
from benchmarks.harness import Round, Row

_NEW_TOKENS = 512
_PIECE = 512  # Positions of the prompt that are timed,
_SEGMENT = 128  # and that ours runs at once.


@dataclasses.dataclass(frozen=True)
class Case:
  rows: int
  prompt: int
  steps: int  # That are timed of ours,
  peer_steps: int  # and of the peer.
  goal: str = ""
  slow: bool = False  # A round takes so long that one is enough.

  @property
  def name(self) -> str:
    return f"decode/b{self.rows}/p{self.prompt}"

  @property
  def window(self) -> int:
    return self.prompt + _NEW_TOKENS

  @property
  def sizes(self) -> peer.Sizes:
    return peer.Sizes(12, 512, 8, 2048, memory=self.window)


_GOAL = "ratio >= 3 and limit_share >= 0.6"
CASES = (Case(1, 128, 256, 16, _GOAL), Case(1, 2048, 256, 8, _GOAL), Case(16, 128, 64, 2, slow=True),
         Case(16, 2048, 64, 2, slow=True))


def rows(rounds: int) -> Iterator[Row]:
  for case in CASES:
    sides = {"ours": ours, "theirs": theirs, "copy": harness.copy}
    found = harness.alternate(sides, case, 1 if case.slow else rounds)
    peer.check_parameters(case.sizes, found["theirs"][0]["parameters"])
    config = peer.ours(case.sizes).config
    cache = 2 * config.num_layers * case.rows * case.window * config.num_kv_heads * config.head_dim
    limit = harness.median(found["copy"], "bytes") / (4 * (config.num_params() + cache))  # Steps/s.
    share = 1 / harness.median(found["ours"], "step") / limit
    yield harness.compare(case.name, "tokens/s", found["ours"], found["theirs"], "tokens", limit_share=share,
                          goal=case.goal)
    yield harness.compare(f"{case.name}/prefill", "tokens/s", found["ours"], found["theirs"], "prompt_tokens")


def ours(case: Case) -> Callable[[], Round]:
  import jax

  from gpt4x.inference.engine import Engine
  from gpt4x.inference.sampling import Sampling

  model = peer.ours(case.sizes)
  params = jax.jit(model.init)(jax.random.key(0))
  segments = lambda tokens: -(-(1 + tokens) // _SEGMENT)
  engine = Engine(model, case.window, eos_id=None, sampling=Sampling(temperature=0), segment_length=_SEGMENT)
  prompts = _prompts(case)[:, :_PIECE - 1]
  parts = segments(case.prompt) / segments(prompts.shape[1])

  def decode() -> Round:
    prefill, step = our_seconds(engine, params, prompts, case.steps)
    return _round(case, parts * prefill, step)

  return decode


def our_seconds(engine: Any, params: Any, prompts: Any, steps: int) -> tuple[float, float]:
  """Of the prefill, and of a step of so many."""
  # The first piece comes after the prompt, and all others after as many steps as they have tokens.
  ends, pieces = [time.perf_counter()], []
  for piece in engine(params, prompts, steps):
    ends.append(time.perf_counter())
    pieces.append(piece.tokens.shape[1])
  step = (ends[-1] - ends[1]) / sum(pieces[1:])
  return ends[1] - ends[0] - pieces[0] * step, step


def theirs(case: Case) -> Callable[[], Round]:
  import torch

  model = peer.theirs(case.sizes).eval()
  model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
  prompts = torch.tensor(_prompts(case)[:, :_PIECE + 1])
  parts = (case.prompt - 1) / (prompts.shape[1] - 1)
  parameters = sum(parameter.numel() for parameter in model.parameters())

  @torch.no_grad()
  def decode() -> Round:
    start = time.perf_counter()
    memory = model(prompts[:, :-1]).mems  # Of all but the last token, with which `generate` begins.
    middle = time.perf_counter()
    output = model.generate(prompts, past_key_values=memory, max_new_tokens=case.peer_steps, do_sample=False)
    step = (time.perf_counter() - middle) / case.peer_steps
    assert output.shape[1] == prompts.shape[1] + case.peer_steps
    return _round(case, prefill=parts * (middle - start), step=step) | {"parameters": parameters}

  return decode


def _round(case: Case, prefill: float, step: float) -> Round:
  return {"step": step, "prompt_tokens": case.rows * case.prompt / prefill,
          "tokens": case.rows * _NEW_TOKENS / (prefill + _NEW_TOKENS * step)}


def _prompts(case: Case):
  import numpy as np
  return np.random.default_rng(0).integers(1, 256, (case.rows, case.prompt))
