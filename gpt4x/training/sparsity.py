"""Training with zeros: weights that were pruned stay so, and more may go on the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt4x.compression.pruning import is_pruned, Sparsity
from gpt4x.errors import UserError
from gpt4x.models.parameters import Declaration
from gpt4x.training.optimizers import by_declaration, complete, configurable, Declarations, Optimizer, Scheduled


@configurable
def sparse(optimizer: Optimizer, sparsity: str | None = None, start_step: int = 0, end_step: int = 0,
           every: int = 100) -> Optimizer:
  """An optimizer under which the zeros of hidden kernels stay zeros.

  Args:
    optimizer: whose updates the other weights get.
    sparsity: what is to be zero besides, the smallest weights, as `gpt4x compress --prune=magnitude:` has it: '50%', of
      each kernel, or '2:4', of four neighbouring inputs. None: nothing more.
    start_step: the update after which the first go.
    end_step: that after which all have gone. A share rises as 1 - (1 - t)^3 (arXiv:1710.01878); a pattern comes whole.
    every: updates between two prunings.
  """
  wanted = None if sparsity is None else Sparsity.of(sparsity)
  if every < 1 or start_step < 0 or end_step < start_step and sparsity is not None:
    raise UserError(f"sparse.start_step = {start_step}, end_step = {end_step}, every = {every}: steps count from 0, the"
                    " end is no earlier than the start, and every is at least 1")

  def make(schedule: Any, declarations: Declarations) -> optax.GradientTransformation:
    inner = complete(optimizer, declarations)

    def init(params):
      return _State(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
      updates, within = inner.update(updates, state.inner, params)
      share = _share(state.updates, wanted, start_step, end_step, every)
      declared = by_declaration(lambda one: one, declarations)(params)
      kept = jax.tree.map(lambda update, param, one: _kept(update, param, one, share, wanted),
                          updates, params, declared)
      return kept, _State(state.updates + 1, within)

    return optax.GradientTransformation(init, update)

  rate = optimizer.learning_rate if isinstance(optimizer, Scheduled) else 0.0
  made = Scheduled(rate, make)
  return made if isinstance(optimizer, Scheduled) else lambda declarations: make(None, declarations)


class _State(NamedTuple):
  updates: jax.Array  # So far. Not called a count, which a checkpoint may lack (see checkpoints/compatibility.py).
  inner: Any


def _share(count: jax.Array, wanted: Sparsity | None, start: int, end: int, every: int) -> jax.Array | None:
  """What share is to be zero after an update; 0 where no pruning is due."""
  if wanted is None:
    return None
  done = jnp.clip((count - start) / max(end - start, 1), 0.0, 1.0) if end > start else jnp.asarray(1.0)
  rising = wanted.share * (1 - (1 - done) ** 3) if wanted.pattern is None else jnp.asarray(wanted.share)
  due = (count >= start) & (count <= end) & (((count - start) % every == 0) | (count == end))
  return jnp.where(due, rising, 0.0)


def _kept(update: jax.Array, param: jax.Array, declaration: Declaration, share: jax.Array | None,
          wanted: Sparsity | None) -> jax.Array:
  """The update of a parameter, so that what is zero stays, and what goes becomes, zero."""
  if not is_pruned(declaration):
    return update
  update = jnp.where(param == 0, 0, update)
  if wanted is None or share is None:
    return update

  def pruned(update):
    size = jnp.abs(param + update)
    if wanted.pattern:
      goes = ~_largest(size, declaration.summed_axes[-1], *wanted.pattern)
    else:
      lead = declaration.leading_axes
      axes = tuple(axis for axis in range(size.ndim) if axis not in lead)
      goes = size <= jnp.quantile(size, share, axis=axes, keepdims=True, method="lower")
    return jnp.where(goes, -param, update)

  return jax.lax.cond(share > 0, pruned, lambda update: update, update)


def _largest(size: jax.Array, axis: int, count: int, neighbours: int) -> jax.Array:
  """Whether each number is among the `count` largest of so many neighbours along an axis; of a rest, likewise."""
  moved = jnp.moveaxis(size, axis, -1)
  padded = jnp.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -moved.shape[-1] % neighbours)], constant_values=-1.0)
  groups = padded.reshape(*padded.shape[:-1], -1, neighbours)
  ranks = jnp.argsort(jnp.argsort(-groups, -1), -1)
  keep = (ranks < count).reshape(padded.shape)[..., :moved.shape[-1]]
  return jnp.moveaxis(keep, -1, axis)
