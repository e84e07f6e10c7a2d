"""Optimizers that are tried beside those of the project, as gin configurables for `benchmarks/algorithms.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from gpt4x.training import optimizers

Optimizer = optimizers.Optimizer


def _scheduled(learning_rate: Any, make: Callable[[Any, Any], optax.GradientTransformation]) -> Optimizer:
  return optimizers.Scheduled(learning_rate, make)


@gin.configurable
def cautious(optimizer: Any) -> Optimizer:
  """An optimizer whose updates leave out what the gradient is against (arXiv:2411.16085)."""
  return _scheduled(optimizer.learning_rate, lambda schedule, declarations: _cautious(
      optimizer.make(schedule, declarations)))


def _cautious(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  def update(gradients, state, params=None):
    updates, state = inner.update(gradients, state, params)

    def agreeing(one, gradient):
      kept = (one * gradient < 0).astype(one.dtype)  # An update goes down the gradient.
      return one * kept / jnp.maximum(jnp.mean(kept), 1e-3)

    return jax.tree.map(agreeing, updates, gradients), state

  return optax.GradientTransformation(inner.init, update)


@gin.configurable
def ademamix(learning_rate: Any, b1: float = 0.9, b2: float = 0.98, b3: float = 0.999, alpha: float = 4.0,
             weight_decay: float = 0.1) -> Optimizer:
  """AdEMAMix (arXiv:2409.03137), with a slow average of gradients beside the fast one."""
  return _scheduled(learning_rate, lambda schedule, declarations: optax.contrib.ademamix(
      schedule, b1=b1, b2=b2, b3=b3, alpha=alpha, weight_decay=weight_decay, mask=optimizers.decayed(declarations)))


@gin.configurable
def adopt(learning_rate: Any, b1: float = 0.9, b2: float = 0.98, weight_decay: float = 0.1) -> Optimizer:
  """ADOPT (arXiv:2411.02853), which divides by the second moment of the gradients before."""
  return _scheduled(learning_rate, lambda schedule, declarations: optax.chain(
      optax.contrib.scale_by_adopt(b1, b2), optax.add_decayed_weights(weight_decay, optimizers.decayed(declarations)),
      optax.scale_by_learning_rate(schedule)))


@gin.configurable
def schedule_free(learning_rate: Any, b1: float = 0.9, b2: float = 0.98, weight_decay: float = 0.1,
                  warmup_steps: int = 30) -> Optimizer:
  """Schedule-free AdamW (arXiv:2405.15682). What is evaluated is y, nine tenths of which are the average x."""
  return _scheduled(learning_rate, lambda schedule, declarations: optax.contrib.schedule_free_adamw(
      float(learning_rate), warmup_steps, b1=b1, b2=b2, weight_decay=weight_decay))


class SoapState(NamedTuple):
  """Of each matrix: moments, and the eigenvectors that they are taken in."""

  count: jax.Array
  leaves: Any


@gin.configurable
def soap(learning_rate: Any, b1: float = 0.95, b2: float = 0.95, period: int = 10, largest: int = 1024,
         weight_decay: float = 0.1) -> Optimizer:
  """SOAP (arXiv:2409.11321): Adam in the eigenbasis of Shampoo's factors, for hidden matrices; else AdamW."""
  return _scheduled(learning_rate, lambda schedule, declarations: optax.partition({
      "soap": optax.chain(_soap(b1, b2, period, largest), optax.add_decayed_weights(weight_decay),
                          optax.scale_by_learning_rate(schedule)),
      "adamw": optimizers.adamw(schedule, b2=0.98, weight_decay=weight_decay)(declarations),
  }, optimizers.by_declaration(lambda one: "soap" if one.is_hidden else "adamw", declarations)))


def _soap(b1: float, b2: float, period: int, largest: int) -> optax.GradientTransformation:
  matrix = lambda leaf: leaf.reshape(leaf.shape[0], -1)
  sides = lambda leaf: [size if size <= largest else 0 for size in matrix(leaf).shape]

  def init(params):
    def one(leaf):
      flat = matrix(leaf)
      return {"m": jnp.zeros_like(flat), "v": jnp.zeros_like(flat),
              "factors": [jnp.zeros((size, size)) for size in sides(leaf)],
              "bases": [jnp.eye(size) for size in sides(leaf)]}
    return SoapState(jnp.zeros((), jnp.int32), jax.tree.map(one, params))

  def turned(x, bases, back=False):
    left, right = bases
    x = (left if back else left.T) @ x if left.size else x
    return x @ (right.T if back else right) if right.size else x

  def update(gradients, state, params=None):
    del params
    count = state.count + 1

    def one(gradient, known):
      g = matrix(gradient)
      products = (g @ g.T if known["factors"][0].size else known["factors"][0],
                  g.T @ g if known["factors"][1].size else known["factors"][1])
      factors = [b2 * old + (1 - b2) * new for old, new in zip(known["factors"], products)]
      m = b1 * known["m"] + (1 - b1) * g
      seen = turned(g, known["bases"])
      v = b2 * known["v"] + (1 - b2) * jnp.square(seen)
      step = turned(m, known["bases"]) / (jnp.sqrt(v / (1 - b2**count)) + 1e-8) / (1 - b1**count)
      bases = [jax.lax.cond((count == 1) | (count % period == 0),
                            lambda factor=factor, base=base: jnp.linalg.qr(factor @ base)[0], lambda base=base: base)
               if base.size else base for factor, base in zip(factors, known["bases"])]
      found = turned(step, known["bases"], back=True).reshape(gradient.shape)
      return found, {"m": m, "v": v, "factors": factors, "bases": bases}

    leaves, tree = jax.tree.flatten(gradients)
    known = tree.flatten_up_to(state.leaves)
    pairs = [one(*pair) for pair in zip(leaves, known)]
    return tree.unflatten([pair[0] for pair in pairs]), SoapState(count, tree.unflatten([pair[1] for pair in pairs]))

  return optax.GradientTransformation(init, update)
