"""Mixture of experts: a router sends each token to k of E MLPs (arXiv:1701.06538), which may lie on several devices.

Tokens and experts come together in either of two ways, with the same numbers as long as nothing is dropped.

With a capacity each expert takes, of every row of the batch, the first C tokens that choose it, all first choices ahead
of all second ones; a token without room passes by on the residual. All-to-all takes tokens to the devices of their
experts and back. Rows are apart, so what is dropped depends neither on the mesh nor on microbatches.

Dropless, tokens are sorted by expert and multiplied by `jax.lax.ragged_dot`. With the experts on P devices, each
gathers the tokens of all P and sums up what its own experts make of them: P / k times the traffic of all-to-all, and
rows for P times its own choices. That suits a small P, evaluation and decoding.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any, NamedTuple

from flax import traverse_util
import flax.linen as nn
from flax.linen import partitioning as nn_partitioning
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gpt4x.models.config import TransformerConfig
from gpt4x.models.layers import activate, constrain, MLP, residual_scale
from gpt4x.models.parameters import kernel_init, param
from gpt4x.models.sums import Sum, Sums

KERNEL_AXES = dict.fromkeys(("wi", "wi_gate"), ("expert", "embed", "mlp")) | {"wo": ("expert", "mlp", "embed")}


@flax.struct.dataclass
class Routing:
  """What a router did to a batch, over all its devices; a leading axis where layers are scanned."""

  balance_loss: jax.Array  # [], a mean over tokens, as is z_loss.
  z_loss: jax.Array
  load: jax.Array  # [E], choices of each expert by a token.
  dropped: jax.Array  # [], choices that the expert had no room for.


class MoE(nn.Module):
  """[B, L, D] -> [B, L, D] by the k experts that each token is sent to, and the shared ones. Experts have no biases.

  Collects a Routing, if the collection "router" is mutable, at the path of its parameters.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: jax.Array, real: jax.Array, deterministic: bool) -> jax.Array:
    """`real` [B, L] is False for padding, which no expert sees nor sum counts; deterministic: no jitter or capacity."""
    c, m = self.config, self.config.moe
    sizes, init = (m.num_experts, c.embed_dim, c.expert_dim), functools.partial(kernel_init, 1, 2, batch_axis=0)
    make = lambda name, init, *shape: param(self, name, init, shape, KERNEL_AXES[name], KERNEL_AXES[name][1:2]).dense()
    kernels = {name: make(name, init(), *sizes) for name in ("wi", "wi_gate")[:2 if c.activation == "swiglu" else 1]}
    kernels["wo"] = make("wo", init(residual_scale(c)), m.num_experts, c.expert_dim, c.embed_dim)
    capacity = None
    if m.capacity_factor is not None and not deterministic:  # An expert meets a token once, so at most L of a row.
      even_share = m.experts_per_token * x.shape[1] / m.num_experts
      capacity = min(x.shape[1], math.ceil(m.capacity_factor * even_share))
    weights, experts = self.route(x, real, capacity, deterministic)
    y = mix(x, weights, experts, kernels, functools.partial(activate, c.activation), capacity)
    if m.num_shared_experts:
      y += MLP(c, m.num_shared_experts * c.expert_dim, name="shared")(x)
    return y

  def route(self, x: jax.Array, real: jax.Array, capacity: int | None, deterministic: bool) -> tuple[jax.Array, ...]:
    """The float32 weights of each token's k experts [B, L, k], and these, best first; E: none."""
    m = self.config.moe
    router = param(self, "router", kernel_init(), (x.shape[-1], m.num_experts), ("embed", None), ("embed",),
                   jnp.float32).dense()
    x = constrain(x, ("batch", "residual_length", "embed")).astype(jnp.float32)
    if m.jitter and not deterministic:
      x *= jax.random.uniform(self.make_rng("dropout"), x.shape, minval=1 - m.jitter, maxval=1 + m.jitter)
    logits = jnp.einsum("bld,de->ble", x, router, precision=jax.lax.Precision.HIGHEST)
    scores = jax.nn.softmax(logits) if m.scores == "softmax" else jax.nn.sigmoid(logits)
    ranks = jax.lax.stop_gradient(scores)
    if m.bias_rate:  # Decides who is chosen but not with what weight; `balanced` moves it.
      ranks += jax.lax.stop_gradient(
          param(self, "router_bias", nn.initializers.zeros, (m.num_experts,), (None,), dtype=jnp.float32))
    experts = best(ranks, m.experts_per_token)
    chosen = experts[..., None] == jnp.arange(m.num_experts)
    weights = jnp.sum(jnp.where(chosen, scores[..., None, :], 0.0), -1)  # Not a gather, whose gradient is a scatter.
    if m.normalize_weights:
      weights /= jnp.sum(weights, -1, keepdims=True)
    experts = jnp.where(real[..., None], experts, m.num_experts)
    tokens = jnp.maximum(jnp.sum(real), 1)
    mean = lambda values: jnp.sum(values * real[..., None], (0, 1)) / tokens
    row_load = jnp.sum(experts[..., None] == jnp.arange(m.num_experts), (1, 2))  # [B, E]
    load = jnp.sum(row_load, 0)
    share = load / (m.experts_per_token * tokens)  # Sums to one, as the probabilities do.
    probs = scores / jnp.sum(scores, -1, keepdims=True)
    routing = Routing(
        balance_loss=m.num_experts * jnp.sum(share * mean(probs)),
        z_loss=jnp.sum(mean(jax.nn.logsumexp(logits, -1, keepdims=True) ** 2)),
        load=load.astype(jnp.float32),
        dropped=jnp.sum(jnp.maximum(row_load - (capacity or row_load), 0)).astype(jnp.float32))
    # Layers that share parameters add to the same sums.
    add = lambda total, new: jax.tree.map(jnp.add, total, new) if total else new
    self.sow("router", "routing", routing, reduce_fn=add, init_fn=lambda: None)
    return weights, experts


def sums(routings: Mapping[str, Any], tokens: jax.Array) -> Sums:
  """The named sums of all routers of a model, from the collection that they sowed; empty without mixtures.

  The two losses add up over layers. `expert_imbalance/PATH` is the load of each expert beside an even share of it.
  """
  found = traverse_util.flatten_dict(routings)
  if not found:
    return {}
  total = lambda field: sum((jnp.sum(getattr(routing, field)) for routing in found.values()), start=jnp.zeros(()))
  named = {"router_balance_loss": Sum(total("balance_loss") * tokens, tokens),
           "router_z_loss": Sum(total("z_loss") * tokens, tokens),
           "expert_dropped": Sum(total("dropped"), total("load"))}
  for (*path, _), routing in found.items():
    even = jnp.mean(routing.load, -1, keepdims=True)
    named["/".join(("expert_imbalance", *path))] = Sum(routing.load, even)
  return named


def balanced(params: Any, named: Sums, rate: float) -> Any:
  """The parameters with each expert's bias moved by `rate`, up if it had less than an even share of a step's load.

  arXiv:2408.15664 balances so, without a loss. The biases have no gradient, so that optimizers leave them alone.
  """
  flat = traverse_util.flatten_dict(params)
  for name, load in named.items():
    kind, _, path = name.partition("/")
    if kind == "expert_imbalance":
      flat[(*path.split("/"), "router_bias")] += rate * jnp.sign(load.weight - load.value)
  return traverse_util.unflatten_dict(flat)


def best(ranks: jax.Array, k: int) -> jax.Array:
  """The k largest of ranks [..., E], largest first, [..., k]; of equal ones the first.

  Not by top_k, for which GSPMD would gather all tokens on every device, nor by a sort, which a TPU compiles slowly.
  """
  found = []
  for _ in range(k):
    found.append(jnp.argmax(ranks, -1))
    ranks = jnp.where(found[-1][..., None] == jnp.arange(ranks.shape[-1]), -jnp.inf, ranks)
  return jnp.stack(found, -1)


class Layout(NamedTuple):
  """The mesh axes that rows and kernels are split over; none on one device."""

  batch: tuple[str, ...] = ()
  expert: str | None = None
  embed: str | None = None
  mlp: str | None = None


def layout(rows: int) -> Layout:
  """That of the mesh and the logical rules in force.

  GSPMD lays out the plain function, with no Layout, where there is no mesh, where rows do not divide over it, as in
  decoding a few, and where experts lie on an axis that does not split rows.
  """
  mesh, (batch,) = jax.sharding.get_abstract_mesh(), nn_partitioning.logical_to_mesh_axes(("batch",))
  batch = (batch,) if isinstance(batch, str) else batch or ()
  expert, embed, mlp = nn_partitioning.logical_to_mesh_axes(KERNEL_AXES["wi"])
  if mesh.size <= 1 or rows % math.prod(mesh.shape[axis] for axis in batch) or expert not in (None, *batch):
    return Layout()
  return Layout(batch, expert, embed, mlp)


def mix(x: jax.Array, weights: jax.Array, experts: jax.Array, kernels: dict[str, jax.Array], activation: Callable,
        capacity: int | None) -> jax.Array:
  """The weighted sum of each token's experts.

  Args:
    x: [B, L, D].
    weights, experts: [B, L, k]; an expert outside 0 ... E - 1 is none.
    kernels: `wi` and `wi_gate` [E, D, F], `wo` [E, F, D].
    activation: of (hidden, gate).
    capacity: tokens that an expert takes from a row; None: all that choose it.
  """
  axes = layout(len(x))
  run = functools.partial(_mix_shard, activation=activation, capacity=capacity, axes=axes)
  if not axes.batch:
    return run(x, weights, experts, kernels)
  rows = PartitionSpec(axes.batch)
  specs = {name: nn_partitioning.logical_to_mesh_axes(KERNEL_AXES[name]) for name in kernels}
  return jax.shard_map(run, in_specs=(rows, rows, rows, specs), out_specs=rows)(x, weights, experts, kernels)


def _mix_shard(x, weights, experts, kernels, activation, capacity, axes) -> jax.Array:
  """`mix` of one device's rows by all devices' experts."""
  if axes.mlp:  # Whose devices have the same tokens: here, and not later, their gradients are summed.
    x, weights = jax.lax.pcast((x, weights), axes.mlp, to="varying")
  # The gradients of kernels are summed over the other rows' devices after, not before, they are split over these.
  if others := tuple(axis for axis in axes.batch if axis not in (axes.expert, axes.embed)):
    kernels = jax.lax.pcast(kernels, others, to="varying")
  if axes.embed:  # Its devices have a part of D each.
    kernels = {name: jax.lax.all_gather(kernel, axes.embed, axis=KERNEL_AXES[name].index("embed"), tiled=True)
               for name, kernel in kernels.items()}

  def mlp(x, dot):
    gate = dot(x, kernels["wi_gate"]) if "wi_gate" in kernels else None
    return dot(activation(dot(x, kernels["wi"]), gate), kernels["wo"])

  combine = _dropless if capacity is None else functools.partial(_with_capacity, capacity=capacity)
  y = combine(x, weights, experts, mlp, kernels["wo"].shape[0], axes.expert)
  return jax.lax.psum(y, axes.mlp) if axes.mlp else y


def _with_capacity(x, weights, experts, mlp, num_local, axis, capacity) -> jax.Array:
  size = jax.lax.axis_size(axis) if axis else 1
  sources, slots = assign(experts, num_local * size, capacity)
  inputs = take(x.reshape(-1, x.shape[-1]), sources).reshape(size, num_local, -1, x.shape[-1])  # [P, E / P, B C, D]
  # Among P devices of an axis, each sends each its experts' tokens, and so comes to have all that its own are to see.
  exchange = lambda tokens: jax.lax.all_to_all(tokens, axis, 0, 0) if axis else tokens
  outputs = exchange(mlp(exchange(inputs), functools.partial(jnp.einsum, "pend,edf->penf")))
  outputs = outputs.reshape(-1, x.shape[-1])
  return _weighted_sum(weights, [take(outputs, slots[..., i]) for i in range(slots.shape[-1])])


def take(values: jax.Array, index: jax.Array) -> jax.Array:
  """Rows of values [S, D], zeros for S."""
  return values.at[index].get(mode="fill", fill_value=0)


def assign(experts: jax.Array, num_experts: int, capacity: int) -> tuple[jax.Array, jax.Array]:
  """Gives the choices [B, L, k] of B rows their places, C for each row and expert.

  Returns:
    sources: [E, B C], the token in each place, counted through all rows; B L where there is none.
    slots: [B, L, k], the place of each choice in the flattened [E B C]; E B C where it is dropped.
  """
  rows, length, k = experts.shape
  choices = jnp.swapaxes(experts, 1, 2).reshape(rows, -1)  # A row's first choices, then its second ones.
  chosen = choices[..., None] == jnp.arange(num_experts)
  place = jnp.sum(jnp.where(chosen, jnp.cumsum(chosen, 1) - 1, 0), -1)  # How many chose the same before.
  row = jnp.arange(rows)[:, None]
  none = num_experts * rows * capacity
  slots = jnp.where((choices < num_experts) & (place < capacity), (choices * rows + row) * capacity + place, none)
  tokens = row * length + jnp.arange(choices.shape[1]) % length
  sources = jnp.full(none, rows * length).at[slots].set(tokens, mode="drop")
  return sources.reshape(num_experts, -1), jnp.swapaxes(slots.reshape(rows, k, length), 1, 2)


def _dropless(x, weights, experts, mlp, num_local, axis) -> jax.Array:
  if axis:
    x, weights, experts = (jax.lax.all_gather(a, axis, tiled=True) for a in (x, weights, experts))
    experts -= jax.lax.axis_index(axis) * num_local
  choices = experts.reshape(-1)
  mine = (0 <= choices) & (choices < num_local)
  local = jnp.where(mine, choices, num_local)
  order, load = jnp.argsort(local), jnp.sum(local == jnp.arange(num_local)[:, None], 1)
  # Choices of other devices sort last, outside every group: `ragged_dot` is undefined there, backwards too.
  inputs = jnp.where(mine[order, None], x.reshape(-1, x.shape[-1])[order // experts.shape[-1]], 0)
  outputs = mlp(inputs, lambda x, kernel: jax.lax.ragged_dot(x, kernel, load))
  outputs = jnp.where(mine[:, None], outputs[jnp.argsort(order)], 0).reshape(*experts.shape, -1)
  y = _weighted_sum(weights, [outputs[:, :, i] for i in range(experts.shape[-1])])
  return jax.lax.psum_scatter(y, axis, tiled=True) if axis else y


def _weighted_sum(weights: jax.Array, outputs: Sequence[jax.Array]) -> jax.Array:
  """[B, L, k] and k times [B, L, D] -> [B, L, D], summed in float32."""
  terms = [weights[..., i, None] * output for i, output in enumerate(outputs)]
  return functools.reduce(jnp.add, terms).astype(outputs[0].dtype)
