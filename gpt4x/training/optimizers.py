"""Optimizers and learning-rate schedules, chosen by gin.

Every optimizer makes the update -learning_rate * (direction + weight_decay * parameter). Only what the model declares
to be a kernel decays (projections, MLPs, routers, embedding tables, output kernels), not norms and biases. A factory
here therefore returns a function of the model's declarations.

A schedule is a function of the number of updates made so far. A warmup of n updates gives the first one peak / n, not
zero, and schedules that end at zero would reach it at the update after the last.

The state of an optimizer has one layout, with gradients clipped or not and with a schedule or a number, so a run may
change these between starts.
"""

from collections.abc import Callable
import dataclasses
import functools
import inspect
from typing import Any, ParamSpec, TypeAlias, TypeVar

import gin
import jax
import jax.numpy as jnp
import optax

from gpt4x.configuration.objects import remembered
from gpt4x.errors import UserError
from gpt4x.models.parameters import Declaration

Declarations = Any  # A tree like that of the parameters, a Declaration in the place of each.
Optimizer: TypeAlias = Callable[[Declarations], optax.GradientTransformation] | optax.GradientTransformation
Schedule = Callable[[jax.Array], jax.Array]
LearningRate = float | Schedule
P = ParamSpec("P")
R = TypeVar("R")

# What the numbers of optimizers and schedules may be, by the names of the parameters; None is for the annotations.
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("learning_rate", "peak", "value", "weight_decay"), ("0 or more", lambda x: x >= 0)),
    **dict.fromkeys(("b1", "b2", "beta", "momentum"), ("at least 0 and below 1", lambda x: 0 <= x < 1)),
    **dict.fromkeys(("eps", "clipping_threshold", "decay_rate"), ("above 0", lambda x: x > 0)),
    **dict.fromkeys(("warmup_steps", "decay_steps"), ("a whole number from 0 on", lambda x: x >= 0 and x == int(x))),
    "total_steps": ("a whole number from 1 on", lambda x: x >= 1 and x == int(x)),
    "final_fraction": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "first_moment_dtype": ("'float32' or 'bfloat16'", lambda x: x in ("float32", "bfloat16")),
}


def configurable(factory: Callable[P, R]) -> Callable[P, R]:
  """Registers a factory with gin, checks the ranges of its arguments, and lets its results be written as gin."""
  signature = inspect.signature(factory)

  @gin.configurable
  @remembered
  @functools.wraps(factory)
  def checked(*args: P.args, **kwargs: P.kwargs) -> R:
    for name, value in signature.bind(*args, **kwargs).arguments.items():
      what, holds = _RANGES.get(name, ("", None))
      if holds and value is not None and not callable(value) and not holds(value):
        raise UserError(f"{factory.__name__}.{name} = {value!r} must be {what}")
    return factory(*args, **kwargs)

  return checked


def complete(optimizer: Optimizer, declarations: Declarations,
             clip_norm: float | None = None) -> optax.GradientTransformation:
  """The optimizer of a model's parameters; it sees gradients scaled down to a global norm of `clip_norm`, if larger.

  An optax transformation, which asks for no declarations, is taken as it is.
  """
  if not isinstance(optimizer, optax.GradientTransformation):
    made = optimizer(declarations) if callable(optimizer) else optimizer
    if not isinstance(made, optax.GradientTransformation):
      raise UserError(f"train.optimizer = {optimizer!r} gives a {type(made).__name__}, no optimizer: in gin, write"
                      " @NAME() with its parentheses")
    optimizer = made
  return optax.chain(optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(), optimizer)


@dataclasses.dataclass(frozen=True)
class Scheduled:
  """An optimizer that tells its learning rate."""

  learning_rate: LearningRate
  make: Callable[[Schedule, Declarations], optax.GradientTransformation]

  def __call__(self, declarations: Declarations) -> optax.GradientTransformation:
    return self.make(self.schedule, declarations)

  def schedule(self, count: jax.Array) -> Any:
    return self.learning_rate(count) if callable(self.learning_rate) else self.learning_rate


def learning_rate_of(optimizer: Optimizer, before: Any, after: Any) -> dict[str, jax.Array]:
  """{'learning_rate': that of an update}, from the state before and after it; empty where nothing tells.

  The optimizers below tell, and so does a transformation that `optax.inject_hyperparams` has made.
  """
  if isinstance(optimizer, Scheduled):
    is_count = lambda node: isinstance(node, optax.ScaleByScheduleState)
    counts = [node.count for node in jax.tree.leaves(before, is_leaf=is_count) if is_count(node)]
    return {"learning_rate": jnp.asarray(optimizer.schedule(counts[0]), jnp.float32)}
  told = [value for _, value in optax.tree.get_all_with_path(after, "learning_rate")
          if isinstance(value, jax.Array) and value.ndim == 0]
  return {"learning_rate": told[0]} if len(told) == 1 else {}


def by_declaration(function: Callable[[Declaration], Any], declarations: Declarations) -> Callable[[Any], Any]:
  """A function from parameters to a like tree of `function(Declaration)`, as optax takes masks and labels.

  It answers for parts of the tree too, as optax asks. The leaves of what stands in for a kernel go by the kernel's.
  """
  named = {jax.tree_util.keystr(path): one for path, one in jax.tree_util.tree_leaves_with_path(
      declarations, is_leaf=lambda x: isinstance(x, Declaration))}

  def find(path, _):
    return function(next(one for end in range(len(path), 0, -1)
                         if (one := named.get(jax.tree_util.keystr(path[:end]))) is not None))

  return lambda params: jax.tree_util.tree_map_with_path(find, params)


def decayed(declarations: Declarations) -> Callable[[Any], Any]:
  """The weight-decay mask: True for kernels."""
  return by_declaration(lambda one: one.is_kernel, declarations)


@configurable
def adamw(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
          weight_decay: float = 0.1, first_moment_dtype: str | None = None) -> Optimizer:
  """AdamW (arXiv:1711.05101); `first_moment_dtype` 'bfloat16' saves two bytes a parameter, None is the parameters'."""
  return Scheduled(learning_rate, lambda schedule, declarations: optax.adamw(
      schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed(declarations),
      mu_dtype=first_moment_dtype))


@configurable
def adafactor(learning_rate: LearningRate, decay_rate: float = 0.8, b1: float | None = None,
              clipping_threshold: float = 1.0, weight_decay: float = 0.0) -> Optimizer:
  """Adafactor (arXiv:1804.04235), with updates relative to the scale of each parameter: a learning rate of 0.01 suits.

  Second moments are factored over the two largest axes. A parameter has one scale for all its scanned layers. b1 adds
  momentum, at the memory of one more moment.
  """
  return Scheduled(learning_rate, lambda schedule, declarations: optax.chain(
      optax.scale_by_factored_rms(decay_rate=decay_rate),
      optax.clip_by_block_rms(clipping_threshold),
      optax.scale_by_param_block_rms(),
      optax.ema(b1, debias=False) if b1 is not None else optax.identity(),
      optax.add_decayed_weights(weight_decay, mask=decayed(declarations)),
      optax.scale_by_learning_rate(schedule)))


@configurable
def lion(learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 1.0) -> Optimizer:
  """Lion (arXiv:2302.06675). Its learning rate is 3 to 10 times below AdamW's, its weight decay as much above."""
  return Scheduled(learning_rate, lambda schedule, declarations: optax.lion(
      schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed(declarations)))


@configurable
def sgd(learning_rate: LearningRate, momentum: float = 0.9, nesterov: bool = False,
        weight_decay: float = 0.0) -> Optimizer:
  """Stochastic gradient descent with momentum."""
  return Scheduled(learning_rate, lambda schedule, declarations: optax.chain(
      optax.trace(momentum, nesterov=nesterov),
      optax.add_decayed_weights(weight_decay, mask=decayed(declarations)),
      optax.scale_by_learning_rate(schedule)))


# Optax's own coefficients, once for each of five steps: optax then makes a loop of them, which compiles faster.
_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


@configurable
def muon(learning_rate: LearningRate, beta: float = 0.95, weight_decay: float = 0.1, b1: float = 0.9, b2: float = 0.95,
         eps: float = 1e-8) -> Optimizer:
  """Muon (arXiv:2502.16982) for attention and MLP matrices; AdamW for embeddings, output, norms and biases.

  A matrix maps all its inputs to all its outputs, [D, H * K] in `query`, one per scanned layer. Its update has the RMS
  of AdamW's (0.2), so both share one learning rate and weight decay.
  """
  return Scheduled(learning_rate, lambda schedule, declarations: optax.partition({
      "muon": optax.contrib.muon(
          schedule, ns_coeffs=_NEWTON_SCHULZ, beta=beta, weight_decay=weight_decay, consistent_rms=0.2,
          muon_weight_dimension_numbers=by_declaration(muon_axes, declarations)),
      "adamw": adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)(declarations),
  }, by_declaration(lambda one: "muon" if one.is_hidden else "adamw", declarations)))


def muon_axes(declaration: Declaration) -> optax.contrib.MuonDimensionNumbers:
  """Input and output axes of a matrix; each expert and each layer has one of its own."""
  names, inputs = declaration.names, declaration.summed_axes
  outputs = tuple(i for i, name in enumerate(names) if i not in inputs and name not in ("layers", "expert"))
  return optax.contrib.MuonDimensionNumbers(inputs, outputs)


@configurable
def constant(value: float) -> Schedule:
  """The same learning rate throughout."""
  return _with_warmup(value, 0, jnp.ones_like)


@configurable
def warmup_cosine(peak: float, warmup_steps: int, total_steps: int, final_fraction: float = 0.1) -> Schedule:
  """Linear warmup, then half a cosine down to `final_fraction * peak`."""
  cosine = lambda step: 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, warmup_steps, total_steps)))
  return _with_warmup(peak, warmup_steps, lambda step: final_fraction + (1 - final_fraction) * cosine(step))


@configurable
def warmup_linear(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
  """Linear warmup, then linearly to zero."""
  return _with_warmup(peak, warmup_steps, lambda step: 1 - _progress(step, warmup_steps, total_steps))


@configurable
def warmup_stable_decay(peak: float, warmup_steps: int, decay_steps: int, total_steps: int) -> Schedule:
  """A trapezoid: linear warmup, the peak, and over the last `decay_steps` linearly to zero."""
  return _with_warmup(peak, warmup_steps, lambda step: 1 - _progress(step, total_steps - decay_steps, total_steps))


@configurable
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
