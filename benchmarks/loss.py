"""The loss over a large vocabulary: 4,096 tokens, width 512, 128,000 words; speed and memory of it and its gradients.

`plain` makes all logits [B, L, V] in float32 and then `objectives.cross_entropy`; `ours` is the loss of
`TransformerConfig.loss_chunk`, 64 positions of each of four rows at a time. Memory is the peak of the process beyond
what it had with the inputs in place. The limit is a matrix product, against the FLOPs of the three products that loss
and gradients need.
"""

from collections.abc import Callable, Iterator

from benchmarks import harness
from benchmarks.harness import Round, Row

_TOKENS, _WIDTH, _WORDS = 4096, 512, 128_000


def rows(rounds: int) -> Iterator[Row]:
  found = harness.alternate({"ours": ours, "plain": plain, **harness.PRODUCTS}, None, rounds)
  share = harness.median(found["ours"], "tokens") * 6 * _WIDTH * _WORDS / harness.product_limit(found)
  yield harness.compare("loss/128k", "tokens/s", found["ours"], found["plain"], "tokens", limit_share=share,
                        goal="ratio >= 0.9")
  yield harness.compare("loss/128k/memory", "GiB", found["ours"], found["plain"], "memory", goal="ratio <= 0.25")


def ours(case: None) -> Callable[[], Round]:
  from gpt4x.objectives import cross_entropy
  return _rounds(lambda hidden, kernel, targets, weights: cross_entropy.linear_cross_entropy(
      hidden, kernel, 0.0, targets, weights, chunk=64))


def plain(case: None) -> Callable[[], Round]:
  return _rounds(_plain_loss)


def _plain_loss(hidden, kernel, targets, weights):
  import jax.numpy as jnp

  from gpt4x.objectives import cross_entropy
  logits = jnp.einsum("...d,vd->...v", hidden, kernel, preferred_element_type=jnp.float32)
  return cross_entropy.cross_entropy(logits, targets, weights)


def _rounds(loss: Callable) -> Callable[[], Round]:
  """Rounds of a loss: hidden [B, L, D], kernel [V, D], targets and weights [B, L] -> Sums."""
  import jax
  import jax.numpy as jnp

  @jax.jit
  def gradients(hidden, kernel, targets, weights):
    def objective(hidden, kernel):
      sums = loss(hidden, kernel, targets, weights)
      return sums["loss"].mean, sums

    return jax.grad(objective, argnums=(0, 1), has_aux=True)(hidden, kernel)

  shape = (4, _TOKENS // 4)
  keys = jax.random.split(jax.random.key(0), 3)
  arguments = (jax.random.normal(keys[0], (*shape, _WIDTH)), jax.random.normal(keys[1], (_WORDS, _WIDTH)) / _WIDTH**0.5,
               jax.random.randint(keys[2], shape, 0, _WORDS), jnp.ones(shape))
  compiled = gradients.lower(*arguments).compile()
  jax.block_until_ready(arguments)
  harness.forget_peak_memory()  # Of the draws and of the compilation.
  before = harness.peak_memory()

  def run() -> Round:
    seconds = harness.timed(lambda: jax.block_until_ready(compiled(*arguments)))
    return {"tokens": _TOKENS / seconds, "memory": harness.peak_memory() - before}

  return run
