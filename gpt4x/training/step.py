"""The train step and the evaluation step: pure functions, top to bottom."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt4x import objectives
from gpt4x.models.language_model import Batch, LanguageModel
from gpt4x.models.transformer_xl import Memory
from gpt4x.training.state import TrainState, run_keys


def train_step(model: LanguageModel, optimizer: optax.GradientTransformation, microbatches: int, seed: int,
               state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step on a batch of `decoder_*` features [B, L]; the memory moves on by L."""
  rng = jax.random.fold_in(run_keys(seed)[1], state.step)
  gradients, sums, memory = mean_gradients(model, microbatches, state.params, batch, state.memory, rng)
  updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
  params = model.balance_experts(optax.apply_updates(state.params, updates), sums.router)
  weight = jnp.maximum(sums.weight, 1.0)
  metrics = {
      "loss": sums.loss / weight,
      "z_loss": sums.z_loss / weight,
      "accuracy": sums.correct / weight,
      "gradient_norm": optax.tree.norm(gradients),
  } | sums.router_metrics()
  return TrainState(state.step + 1, params, opt_state, memory), metrics


def jit_train_step(model: LanguageModel, optimizer: optax.GradientTransformation, microbatches: int, seed: int,
                   shapes: TrainState) -> jax.stages.Wrapped:
  """`train_step` of (state, batch), compiled for a state as `state_shapes` has it, which is updated in place."""
  shardings = jax.tree.map(lambda shape: shape.sharding, shapes)
  return jax.jit(functools.partial(train_step, model, optimizer, microbatches, seed), donate_argnums=0,
                 out_shardings=(shardings, shardings.step))


def mean_gradients(model: LanguageModel, microbatches: int, params: Any, batch: Batch, memory: Memory,
                   dropout_rng: jax.Array) -> tuple[Any, objectives.Sums, Memory]:
  """The gradient of the mean objective over a batch, the sums behind it, and the memory L positions on.

  With microbatches the rows are cut into as many groups, each with its rows of the memory, and their gradients are
  summed: the same numbers as in one go, to rounding and but for dropout, in less memory. Only a router's own losses,
  which are means over tokens, are then means of the microbatches' own.
  """
  def objective(params, rows, memory, rng):
    sums, memory = model.loss(params, rows, memory, dropout_rng=rng)
    return sums.objective, (sums, memory)

  def mean_objective(params):
    total, (sums, new_memory) = objective(params, batch, memory, dropout_rng)
    return total / jnp.maximum(sums.weight, 1.0), (sums, new_memory)

  if microbatches == 1:
    gradients, (sums, memory) = jax.grad(mean_objective, has_aux=True)(params)
    return gradients, sums, memory

  def accumulate(total, microbatch):
    gradients, (sums, memory) = jax.grad(objective, has_aux=True)(params, *microbatch)
    return jax.tree.map(jnp.add, total, (gradients, sums)), memory

  inputs = (split_rows(batch, 0, microbatches), split_memory(memory, microbatches),
            jax.random.split(dropout_rng, microbatches))
  _, (sums, _) = jax.eval_shape(objective, params, *jax.tree.map(lambda x: x[0], inputs))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, sums))
  (gradients, sums), memory = jax.lax.scan(accumulate, zero, inputs)
  weight = jnp.maximum(sums.weight, 1.0)
  return jax.tree.map(lambda gradient: gradient / weight, gradients), sums, join_memory(memory)


def eval_step(model: LanguageModel, params, token_bytes: jax.Array, batch: Batch,
              memory: Memory) -> tuple[dict[str, jax.Array], Memory]:
  """Sums over a batch, among them the bytes of text its targets stand for (token_bytes [V])."""
  sums, memory = model.loss(params, batch, memory)
  num_bytes = target_bytes(token_bytes, batch)
  return {"loss": sums.loss, "correct": sums.correct, "weight": sums.weight, "bytes": num_bytes}, memory


def target_bytes(token_bytes: jax.Array, batch: Batch) -> jax.Array:
  """The bytes of text that a batch's weighted targets stand for, given those of each token [V]."""
  return jnp.sum(batch["decoder_loss_weights"] * token_bytes[batch["decoder_target_tokens"]])


def split_rows(tree, axis: int, parts: int):
  """[..., B, ...] -> [parts, ..., B / parts, ...] along `axis`; rows i, i + parts, ... stay on their devices."""
  def split(x):
    x = x.reshape(*x.shape[:axis], x.shape[axis] // parts, parts, *x.shape[axis + 1:])
    return jnp.moveaxis(x, axis + 1, 0)

  return jax.tree.map(split, tree)


def join_rows(tree, axis: int):
  """The inverse of split_rows."""
  def join(x):
    x = jnp.moveaxis(x, 0, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2:])

  return jax.tree.map(join, tree)


def split_memory(memory: Memory, parts: int) -> Memory:
  return Memory(split_rows(memory.layers, 1, parts), split_rows(memory.segment_ids, 0, parts))


def join_memory(memory: Memory) -> Memory:
  return Memory(join_rows(memory.layers, 1), join_rows(memory.segment_ids, 0))
