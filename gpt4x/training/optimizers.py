"""Optimizers and learning-rate schedules, chosen by gin.

Every optimizer makes the update -learning_rate * (direction + weight_decay * parameter). Decay falls on matrices only:
projections, MLP kernels, embedding tables and output kernels, but not on norm scales nor on biases (`content_bias` and
`position_bias` among them), whatever axes scanned layers add to them.

A schedule is a function of the number of updates made so far. A warmup of n updates gives the first one peak / n, not
zero, and schedules that end at zero would reach it at the update after the last.
"""

import re
from typing import Any, Callable

import gin
import jax
import jax.numpy as jnp
import optax

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]
LearningRate = float | Schedule


@gin.configurable
def adamw(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
          weight_decay: float = 0.1, first_moment_dtype: str | None = None) -> optax.GradientTransformation:
  """AdamW (arXiv:1711.05101); `first_moment_dtype` 'bfloat16' saves two bytes a parameter, None is the parameters'."""
  return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=is_decayed,
                     mu_dtype=first_moment_dtype)


@gin.configurable
def adafactor(learning_rate: LearningRate, decay_rate: float = 0.8, b1: float | None = None,
              clipping_threshold: float = 1.0, weight_decay: float = 0.0) -> optax.GradientTransformation:
  """Adafactor (arXiv:1804.04235), with updates relative to the scale of each parameter: a learning rate of 0.01 suits.

  Second moments are factored over the two largest axes; the scale of a parameter is that of all its scanned layers
  together. b1 adds momentum, at the memory of one more moment.
  """
  return optax.chain(
      optax.scale_by_factored_rms(decay_rate=decay_rate),
      optax.clip_by_block_rms(clipping_threshold),
      optax.scale_by_param_block_rms(),
      optax.ema(b1, debias=False) if b1 is not None else optax.identity(),
      optax.add_decayed_weights(weight_decay, mask=is_decayed),
      optax.scale_by_learning_rate(learning_rate))


@gin.configurable
def lion(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.99,
         weight_decay: float = 1.0) -> optax.GradientTransformation:
  """Lion (arXiv:2302.06675). Its learning rate is 3 to 10 times below AdamW's, its weight decay as much above."""
  return optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=is_decayed)


@gin.configurable
def sgd(learning_rate: LearningRate, momentum: float = 0.9, nesterov: bool = False,
        weight_decay: float = 0.0) -> optax.GradientTransformation:
  """Stochastic gradient descent with momentum."""
  return optax.chain(
      optax.trace(momentum, nesterov=nesterov),
      optax.add_decayed_weights(weight_decay, mask=is_decayed),
      optax.scale_by_learning_rate(learning_rate))


# Hidden matrices by leaf name: how many of the last axes are inputs, and how many outputs. Axes before them, of scanned
# layers, are batch axes.
_MUON_AXES = {"query": (1, 2), "key": (1, 2), "value": (1, 2), "relative_key": (1, 2), "out": (2, 1),
              "wi": (1, 1), "wi_gate": (1, 1), "wo": (1, 1)}

# Optax's own coefficients, of five steps one by one: it then makes a loop of them, which takes less time to compile.
_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


@gin.configurable
def muon(learning_rate: LearningRate, beta: float = 0.95, weight_decay: float = 0.1, b1: float = 0.9, b2: float = 0.95,
         eps: float = 1e-8) -> optax.GradientTransformation:
  """Muon (arXiv:2502.16982) for attention and MLP matrices; AdamW for embeddings, output, norms and biases.

  A matrix maps all its inputs to all its outputs, [D, H * K] in `query`, one per scanned layer. Its update has the
  RMS that AdamW's would have (0.2), so both share one learning rate and weight decay.
  """
  axes = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: muon_axes(_name(path)), params)
  labels = lambda params: jax.tree_util.tree_map_with_path(
      lambda path, _: "adamw" if muon_axes(_name(path)) is None else "muon", params)
  return optax.partition({
      "muon": optax.contrib.muon(learning_rate, ns_coeffs=_NEWTON_SCHULZ, beta=beta, weight_decay=weight_decay,
                                 consistent_rms=0.2, muon_weight_dimension_numbers=axes),
      "adamw": adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
  }, labels)


def muon_axes(name: str) -> optax.contrib.MuonDimensionNumbers | None:
  """Input and output axes of a leaf that Muon updates; None for the others."""
  if name not in _MUON_AXES:
    return None
  inputs, outputs = _MUON_AXES[name]
  return optax.contrib.MuonDimensionNumbers(tuple(range(-inputs - outputs, -outputs)), tuple(range(-outputs, 0)))


def is_decayed(params: PyTree) -> PyTree:
  """The weight-decay mask: True for matrices, False for norm scales, biases and anything of fewer than two axes."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x.ndim > 1 and not re.search(r"(^|_)(scale|bias)(_\d+)?$", _name(path)), params)


def with_clipping(optimizer: optax.GradientTransformation, max_norm: float | None) -> optax.GradientTransformation:
  """Scales the gradient down to a global norm of `max_norm`, if it is larger, before `optimizer` sees it."""
  return optax.chain(optax.clip_by_global_norm(max_norm), optimizer) if max_norm else optimizer


@gin.configurable
def constant(value: float) -> Schedule:
  """The same learning rate throughout."""
  return _with_warmup(value, 0, lambda step: 1.0)


@gin.configurable
def warmup_cosine(peak: float, warmup_steps: int, total_steps: int, final_fraction: float = 0.1) -> Schedule:
  """Linear warmup, then half a cosine down to `final_fraction * peak`."""
  def decay(step):
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, warmup_steps, total_steps)))
    return final_fraction + (1 - final_fraction) * cosine
  return _with_warmup(peak, warmup_steps, decay)


@gin.configurable
def warmup_linear(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
  """Linear warmup, then linearly to zero."""
  return _with_warmup(peak, warmup_steps, lambda step: 1 - _progress(step, warmup_steps, total_steps))


@gin.configurable
def warmup_stable_decay(peak: float, warmup_steps: int, decay_steps: int, total_steps: int) -> Schedule:
  """A trapezoid: linear warmup, the peak, and over the last `decay_steps` linearly to zero."""
  return _with_warmup(peak, warmup_steps, lambda step: 1 - _progress(step, total_steps - decay_steps, total_steps))


@gin.configurable
def inverse_square_root(peak: float, warmup_steps: int) -> Schedule:
  """Linear warmup, then as one over the square root of the step; it needs no end."""
  return _with_warmup(peak, warmup_steps, lambda step: jnp.sqrt(max(warmup_steps, 1) / jnp.maximum(step + 1, 1)))


def _with_warmup(peak: float, warmup_steps: int, decay: Schedule) -> Schedule:
  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    return peak * jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0) * jnp.where(step < warmup_steps, 1.0, decay(step))
  return schedule


def _progress(step: jax.Array, start: int, end: int) -> jax.Array:
  return jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path[-1:], simple=True)
