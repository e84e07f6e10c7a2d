"""Losses as pure functions on logits and targets. Each is a sum with its weight: means are taken once, at the end."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class RouterSums:
  """Of the router of a mixture of experts, with a leading axis where layers are scanned."""

  balance_loss: jax.Array  # [], times the tokens' weight, as is z_loss.
  z_loss: jax.Array
  load: jax.Array  # [E], choices of each expert by a token.
  dropped: jax.Array  # [], choices that the expert had no room for.


@flax.struct.dataclass
class Sums:
  """Sums over the weighted target tokens of a batch; `+` joins batches."""

  loss: jax.Array  # Negative log-likelihood, nats.
  z_loss: jax.Array
  correct: jax.Array  # Targets that were the likeliest token.
  weight: jax.Array  # Tokens.
  router: Any = flax.struct.field(default_factory=dict)  # A tree of RouterSums; empty without mixtures of experts.

  def __add__(self, other: "Sums") -> "Sums":
    return jax.tree.map(jnp.add, self, other)

  @property
  def objective(self) -> jax.Array:
    """What is minimised, once divided by the weight."""
    return self.loss + self.z_loss + sum(jnp.sum(layer.balance_loss + layer.z_loss) for layer in self.router_layers)

  @property
  def router_layers(self) -> list[RouterSums]:
    return jax.tree.leaves(self.router, is_leaf=lambda x: isinstance(x, RouterSums))

  def router_metrics(self) -> dict[str, jax.Array]:
    """The means of mixtures: losses summed over layers, the share of choices dropped, the largest load over the mean.

    The load is that of the layer that is worst at it. Without mixtures there are no metrics.
    """
    layers = self.router_layers
    if not layers:
      return {}
    weight = jnp.maximum(self.weight, 1.0)
    total = lambda field: sum(jnp.sum(getattr(layer, field)) for layer in layers)
    imbalance = [jnp.max(jnp.max(layer.load, -1) / jnp.maximum(jnp.mean(layer.load, -1), 1.0)) for layer in layers]
    return {"router_balance_loss": total("balance_loss") / weight, "router_z_loss": total("z_loss") / weight,
            "expert_dropped": total("dropped") / jnp.maximum(total("load"), 1.0),
            "expert_imbalance": functools.reduce(jnp.maximum, imbalance)}


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0) -> Sums:
  """Next-token negative log-likelihood in nats.

  Args:
    logits: [..., V] float32.
    targets: [...] int32.
    weights: [...] float32.
    z_loss: coefficient of log(Z)^2, which keeps the softmax normaliser near 1 (arXiv:2204.02311, section 5).
  """
  log_z = jax.nn.logsumexp(logits, -1)
  target_logits = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  return Sums(
      loss=jnp.sum(weights * (log_z - target_logits)),
      z_loss=z_loss * jnp.sum(weights * log_z**2),
      correct=jnp.sum(weights * (target_logits == jnp.max(logits, -1))),
      weight=jnp.sum(weights),
  )


def linear_cross_entropy(hidden: jax.Array, kernel: jax.Array, bias: jax.Array | float, targets: jax.Array,
                         weights: jax.Array, z_loss: float = 0.0, chunk: int = 128) -> Sums:
  """`cross_entropy` of the logits hidden kernel^T + bias, of which those of a chunk exist at a time.

  Nothing is made twice for that: a chunk's gradients are taken as soon as it has a loss, so that between the passes
  there are these, of the size of `hidden` and `kernel`, and no logits. Only `Sums.objective` has a gradient.

  Args:
    hidden: [B, L, D].
    kernel: [V, D].
    bias: [V], or 0.
    targets, weights: [B, L].
    z_loss: as in `cross_entropy`.
    chunk: positions of every row that are taken together.
  """
  objective, sums = _linear_objective(z_loss, chunk, hidden, kernel, jnp.asarray(bias), targets, weights)
  sums = jax.lax.stop_gradient(sums)
  return sums.replace(loss=objective - sums.z_loss)


def _chunks(chunk: int, *arrays: jax.Array) -> list[jax.Array]:
  """[B, L, ...] -> [ceil(L / chunk), B, chunk, ...], the end padded with zeros."""
  def split(x):
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

  return [split(x) for x in arrays]


def _logits(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  return jnp.einsum("bld,vd->blv", hidden, kernel, preferred_element_type=jnp.float32) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear_objective(z_loss, chunk, hidden, kernel, bias, targets, weights):
  def add(total, inputs):
    rows, *rest = inputs
    sums = cross_entropy(_logits(rows, kernel, bias), *rest, z_loss)
    return jax.tree.map(jnp.add, total, (sums.objective, sums)), None

  zero = jnp.zeros((), jnp.float32)
  return jax.lax.scan(add, (zero, Sums(zero, zero, zero, zero)), _chunks(chunk, hidden, targets, weights))[0]


def _linear_forward(z_loss, chunk, hidden, kernel, bias, targets, weights):
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

  def add(total, inputs):
    rows, targets, weights = inputs
    logits = _logits(rows, kernel, bias)
    sums = cross_entropy(logits, targets, weights, z_loss)
    log_z = jax.nn.logsumexp(logits, -1, keepdims=True)
    hit = targets[..., None] == jnp.arange(len(kernel))
    # Of a token's own objective, by its logits. Its weight is left to what is smaller: the products' other factors.
    slopes = ((1 + 2 * z_loss * log_z) * jnp.exp(logits - log_z) - hit).astype(rows.dtype)
    weighted = (weights[..., None] * rows).astype(rows.dtype)
    by_kernel = product("bld,blv->dv", weighted, slopes)  # [D, V]: to turn the slopes around would take another pass.
    by_bias = product("bl,blv->v", weights.astype(rows.dtype), slopes) if bias.ndim else 0.0
    by_rows = weights[..., None] * product("blv,vd->bld", slopes, kernel)
    return jax.tree.map(jnp.add, total, (sums.objective, sums, by_kernel, by_bias)), by_rows.astype(rows.dtype)

  zero = jnp.zeros((), jnp.float32)
  zeros = [jnp.zeros(shape, jnp.float32) for shape in (kernel.shape[::-1], bias.shape)]
  (objective, sums, by_kernel, by_bias), by_rows = jax.lax.scan(
      add, (zero, Sums(zero, zero, zero, zero), *zeros), _chunks(chunk, hidden, targets, weights))
  by_hidden = jnp.moveaxis(by_rows, 0, 1).reshape(hidden.shape[0], -1, hidden.shape[-1])[:, :hidden.shape[1]]
  return (objective, sums), (by_hidden, by_kernel.T.astype(kernel.dtype), by_bias.astype(bias.dtype))


def _linear_backward(z_loss, chunk, gradients, cotangents):
  return *(gradient * cotangents[0].astype(gradient.dtype) for gradient in gradients), None, None


_linear_objective.defvjp(_linear_forward, _linear_backward)
