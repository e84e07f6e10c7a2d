"""Losses as pure functions on logits and targets. Each is a sum with its weight: means are taken once, at the end."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Sums:
  """Sums over the weighted target tokens of a batch; `+` joins batches."""

  loss: jax.Array  # Negative log-likelihood, nats.
  z_loss: jax.Array
  correct: jax.Array  # Targets that were the likeliest token.
  weight: jax.Array  # Tokens.

  def __add__(self, other: "Sums") -> "Sums":
    return jax.tree.map(jnp.add, self, other)

  @property
  def objective(self) -> jax.Array:
    """What is minimised, once divided by the weight."""
    return self.loss + self.z_loss


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
      correct=jnp.sum(weights * (jnp.argmax(logits, -1) == targets)),
      weight=jnp.sum(weights),
  )
