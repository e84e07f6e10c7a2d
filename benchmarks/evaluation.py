"""Evaluation: tokens/s with memory, against a vanilla Transformer that recomputes its whole window for every token.

The comparison of the paper (arXiv:1901.02860, table 9), whose figures are the goals: 363, 773, 1,409 and 1,874 times
at attention lengths of 800, 1,800, 2,800 and 3,800. The model has the size of its WikiText-103 model (16 layers, width
410, 10 heads of 41, MLP 2,100) and a vocabulary of bytes, as the vanilla model of the comparison has. Float32, one
row, all cores.

Ours is the step that `gpt4x eval` compiles, on segments of 128 tokens with a memory of that length as keys and values,
and R projected beforehand.
The vanilla model has rotary positions, which cost less than relative ones, heads of 40, as those are to be even, and
computes the logits of the last position alone. In the rows `kv-cache` it decodes token by token with a cache of its
keys and values, which recomputes nothing while the text fits the window. The limit is a matrix product, against the
FLOPs of our model's dense products.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools

from benchmarks import harness
from benchmarks.harness import Round, Row


@dataclasses.dataclass(frozen=True)
class Case:
  attention: int  # Positions of the memory, and of the vanilla window.
  paper: int  # The speed-up that the paper reports.

  @property
  def name(self) -> str:
    return f"eval/{self.attention}"


CASES = (Case(800, 363), Case(1800, 773), Case(2800, 1409), Case(3800, 1874))
_LENGTH = 128  # Of a segment.
_SEGMENTS, _CACHED_TOKENS = 4, 64  # Of a round.


def rows(rounds: int) -> Iterator[Row]:
  for case in CASES:
    sides = {"ours": ours, "vanilla": vanilla, "cached": cached, **harness.PRODUCTS}
    found = harness.alternate(sides, case, rounds)
    speed = harness.compare(case.name, "tokens/s", found["ours"], found["vanilla"], "tokens",
                            goal=f"ratio >= {case.paper}")
    config = _model(case.attention, "relative").config
    flops = config.flops_per_token(_LENGTH, causal=False)
    flops -= 4 * config.num_layers * config.embed_dim**2 * case.attention / _LENGTH  # No memory is projected again.
    yield dataclasses.replace(speed, limit_share=speed.value * flops / harness.product_limit(found))
    yield harness.compare(f"{case.name}/kv-cache", "tokens/s", found["ours"], found["cached"], "tokens")


def ours(case: Case) -> Callable[[], Round]:
  import jax
  import jax.numpy as jnp

  from gpt4x.objectives.next_token import NextToken

  model = _model(case.attention, "relative")
  params = jax.jit(model.init)(jax.random.key(0))
  step = jax.jit(functools.partial(NextToken(), model), donate_argnums=3, static_argnums=4)
  memory = model.project_positions(params, model.initial_memory(1, case.attention, projected=True), _LENGTH)
  tokens = _tokens(_LENGTH)
  batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens, "decoder_segment_ids": tokens * 0 + 1,
           "decoder_loss_weights": jnp.ones(tokens.shape)}

  def segments():
    nonlocal memory
    for _ in range(_SEGMENTS):
      sums, memory = step(params, {}, batch, memory, None)
    jax.block_until_ready(sums)

  return lambda: {"tokens": _SEGMENTS * _LENGTH / harness.timed(segments)}


def vanilla(case: Case) -> Callable[[], Round]:
  import jax

  model = _model(0, "rotary")
  params = jax.jit(model.init)(jax.random.key(0))

  @jax.jit
  def last_logits(params, tokens):
    def forward(module):
      hidden, *_ = module(tokens, model.initial_memory(1, 0))
      return module.logits(hidden[:, -1:])

    return model.module.apply({"params": params}, method=forward)

  window = _tokens(case.attention)
  return lambda: {"tokens": 1 / harness.timed(lambda: last_logits(params, window).block_until_ready())}


def cached(case: Case) -> Callable[[], Round]:
  import jax

  model = _model(0, "rotary")
  params = jax.jit(model.init)(jax.random.key(0))

  @functools.partial(jax.jit, donate_argnums=1)
  def decode(params, cache, tokens):
    def one(cache, token):
      logits, cache = model.decode_step(params, token, cache)
      return cache, logits

    return jax.lax.scan(one, cache, tokens)

  cache = jax.jit(model.start_decoding)(params, model.initial_memory(1, case.attention, projected=True))
  tokens = _tokens(_CACHED_TOKENS).T

  def run():
    nonlocal cache
    cache, logits = decode(params, cache, tokens)
    logits.block_until_ready()

  return lambda: {"tokens": _CACHED_TOKENS / harness.timed(run)}


def _model(memory_length: int, positions: str):
  from gpt4x.models.config import TransformerConfig
  from gpt4x.models.language_model import LanguageModel
  return LanguageModel(TransformerConfig(
      vocab_size=256, num_layers=16, embed_dim=410, num_heads=10, head_dim=41 if positions == "relative" else 40,
      mlp_dim=2100, memory_length=memory_length, positions=positions, output_bias=True))


def _tokens(length: int):
  import jax
  return jax.random.randint(jax.random.key(0), (1, length), 0, 256)
