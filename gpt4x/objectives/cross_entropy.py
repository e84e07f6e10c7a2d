"""The cross entropy of logits and targets, as named sums."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gpt4x.models.shapes import Array, in_chunks
from gpt4x.models.sums import Sum
from gpt4x.objectives.groups import Groups, sums_of_groups


def cross_entropy(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"], weights: Float[Array, "*batch"],
                  groups: Groups | None = None) -> dict[str, Sum]:
  """Sums over the weighted target tokens.

  Returns:
    `loss`, the next token's negative log-likelihood in nats; `z_loss`, log(Z)^2; `accuracy`, whether the target was
    the likeliest token. Of groups of targets loss and accuracy: see `sums_of_groups`.
  """
  log_z = jax.nn.logsumexp(logits, -1)
  target_logits = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  nats, correct = log_z - target_logits, target_logits == jnp.max(logits, -1)
  weight = jnp.sum(weights)
  sums = {
      "loss": Sum(jnp.sum(weights * nats), weight),
      "z_loss": Sum(jnp.sum(weights * log_z**2), weight),
      "accuracy": Sum(jnp.sum(weights * correct), weight),
  }
  return sums if groups is None else sums | sums_of_groups(nats, correct, weights, groups)


def linear_cross_entropy(hidden: Float[Array, "B L D"], kernel: Float[Array, "V D"], bias: Float[Array, " V"] | float,
                         targets: Int[Array, "B L"], weights: Float[Array, "B L"], z_loss: float = 0.0,
                         chunk: int = 128, groups: Groups | None = None) -> dict[str, Sum]:
  """`cross_entropy` of the logits hidden kernel^T + bias, of which those of a chunk exist at a time.

  Nothing is made twice for that: a chunk's gradients are taken as soon as it has a loss, so that between the passes
  there are these, of the size of `hidden` and `kernel`, and no logits. `loss` alone has a gradient, that of
  loss + z_loss * log(Z)^2.

  Args:
    hidden, kernel: the factors of the logits.
    bias: of the logits; 0 for none.
    targets, weights: of the tokens.
    z_loss: what the objective multiplies `z_loss` by.
    chunk: positions of every row that are taken together.
    groups: of the targets, if there are any.
  """
  tokens = (targets, weights) if groups is None else (targets, weights, groups.members)
  objective, sums = _linear_objective(z_loss, chunk, groups and groups.names, hidden, kernel, jnp.asarray(bias), tokens)
  sums = jax.lax.stop_gradient(sums)
  return sums | {"loss": Sum(objective - z_loss * sums["z_loss"].value, sums["loss"].weight)}


def _objective(sums: dict[str, Sum], z_loss: float) -> jax.Array:
  return sums["loss"].value + z_loss * sums["z_loss"].value


def _sums(logits: jax.Array, groups: tuple[str, ...] | None, targets: jax.Array, weights: jax.Array,
          *members: jax.Array) -> dict[str, Sum]:
  return cross_entropy(logits, targets, weights, Groups(members[0], groups) if groups else None)


def _no_sums(groups: tuple[str, ...] | None, tokens: tuple[jax.Array, ...]) -> dict[str, Sum]:
  zero = jnp.zeros((), jnp.float32)
  names = "loss", "z_loss", "accuracy", *(Groups(tokens[2], groups).sum_names if groups else ())
  return {name: Sum(zero, zero) for name in names}


def _logits(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  return jnp.einsum("bld,vd->blv", hidden, kernel, preferred_element_type=jnp.float32) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _linear_objective(z_loss, chunk, groups, hidden, kernel, bias, tokens):
  def add(total, inputs):
    rows, *rest = inputs
    sums = _sums(_logits(rows, kernel, bias), groups, *rest)
    return jax.tree.map(jnp.add, total, (_objective(sums, z_loss), sums)), None

  zero = jnp.zeros((), jnp.float32)
  return jax.lax.scan(add, (zero, _no_sums(groups, tokens)), in_chunks(chunk, hidden, *tokens))[0]


def _linear_forward(z_loss, chunk, groups, hidden, kernel, bias, tokens):
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

  def add(total, inputs):
    rows, targets, weights, *members = inputs
    logits = _logits(rows, kernel, bias)
    sums = _sums(logits, groups, targets, weights, *members)
    log_z = jax.nn.logsumexp(logits, -1, keepdims=True)
    hit = targets[..., None] == jnp.arange(len(kernel))
    # Gradient by the logits, unweighted; weights multiply the smaller operands.
    slopes = ((1 + 2 * z_loss * log_z) * jnp.exp(logits - log_z) - hit).astype(rows.dtype)
    weighted = (weights[..., None] * rows).astype(rows.dtype)
    by_kernel = product("bld,blv->dv", weighted, slopes)  # [D, V]: transposing the slopes would take another pass.
    by_bias = product("bl,blv->v", weights.astype(rows.dtype), slopes) if bias.ndim else 0.0
    by_rows = weights[..., None] * product("blv,vd->bld", slopes, kernel)
    new = _objective(sums, z_loss), sums, by_kernel, by_bias
    return jax.tree.map(jnp.add, total, new), by_rows.astype(rows.dtype)

  zeros: list[Any] = [jnp.zeros(shape, jnp.float32) for shape in (kernel.shape[::-1], bias.shape)]
  start: tuple[Any, ...] = (jnp.zeros((), jnp.float32), _no_sums(groups, tokens), *zeros)
  (objective, sums, by_kernel, by_bias), by_rows = jax.lax.scan(add, start, in_chunks(chunk, hidden, *tokens))
  by_hidden = jnp.moveaxis(by_rows, 0, 1).reshape(hidden.shape[0], -1, hidden.shape[-1])[:, :hidden.shape[1]]
  return (objective, sums), (by_hidden, by_kernel.T.astype(kernel.dtype), by_bias.astype(bias.dtype))


def _linear_backward(z_loss, chunk, groups, gradients, cotangents):
  return *(gradient * cotangents[0].astype(gradient.dtype) for gradient in gradients), None


_linear_objective.defvjp(_linear_forward, _linear_backward)
