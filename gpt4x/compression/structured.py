"""Whole heads, MLP columns, layers and experts taken out: what is left is a smaller dense model."""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.next_token import NextToken

PARTS = ("heads", "mlp", "layers", "experts")

Path = tuple[str, ...]
_WRITES = {"heads": "out", "mlp": "wo", "experts": "wo"}  # The kernel by which a part adds to the residual stream.
_MODULES = {"heads": "attention", "mlp": "mlp", "experts": "moe"}


def sensitivities(model: LanguageModel, params: Any, batches: Iterable[Mapping[str, jax.Array]],
                  memory_length: int) -> dict[Path, Any]:
  """How much the loss changes, to first order, without parts of the model (arXiv:1906.10771), by a kernel's path.

  For each kernel that writes to the residual stream, the absolute sums of kernel times gradient over what it writes,
  of its heads, columns or experts: [*layers, H], [*layers, F], [*layers, E, F]; summed over the batches. Batches and
  memory are as `calibration.moments` takes them.
  """
  @jax.jit
  def change(params, batch, memory):
    def loss(params):
      sums, new = NextToken()(model, params, {}, batch, memory, None)
      return sums["loss"].mean, new

    gradients, new = jax.grad(loss, has_aux=True)(params)
    flat, slopes = traverse_util.flatten_dict(params), traverse_util.flatten_dict(gradients)
    found = {path: jnp.sum(leaf * slopes[path], -1) for path, leaf in flat.items()
             if path[-1] in _WRITES.values() and path[-2] in (*_MODULES.values(), "shared")}
    # A head's K rows go together.
    return {path: jnp.abs(jnp.sum(one, -1) if path[-1] == "out" else one) for path, one in found.items()}, new

  total, memory = None, None
  for batch in batches:
    if memory is None:
      memory = model.initial_memory(len(batch["decoder_input_tokens"]), memory_length)
    new, memory = change(params, dict(batch), memory)
    new = {path: np.asarray(one, np.float64) for path, one in new.items()}
    total = new if total is None else {path: total[path] + one for path, one in new.items()}
  assert total is not None
  return total


def influences(model: LanguageModel, params: Any, batches: Iterable[Mapping[str, jax.Array]],
               memory_length: int) -> np.ndarray:
  """How far each layer turns the residual stream, 1 - cosine, a mean over tokens: [N] (arXiv:2403.03853)."""
  config: Any = model.config
  names = ["embedding", *(f"layers.{i}.output" for i in range(config.num_layers))]

  @jax.jit
  def turned(params, batch, memory):
    output = model.forward(params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                           batch.get("decoder_causal_attention"), capture=names)
    unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in
            (output.captures[name].astype(jnp.float32) for name in names)]
    weights = batch["decoder_loss_weights"]
    return jnp.stack([jnp.sum(weights * (1 - jnp.sum(a * b, -1))) / jnp.maximum(jnp.sum(weights), 1)
                      for a, b in zip(unit, unit[1:])]), output.memory

  total, memory = np.zeros(config.num_layers), None
  for batch in batches:
    if memory is None:
      memory = model.initial_memory(len(batch["decoder_input_tokens"]), memory_length)
    new, memory = turned(params, dict(batch), memory)
    total += np.asarray(new, np.float64)
  return total


def smaller(model: LanguageModel, params: Any, part: str, share: float,
            found: Mapping[Path, np.ndarray] | np.ndarray) -> tuple[LanguageModel, Any]:
  """The model and parameters without a share of one of PARTS, in every layer as many, of those that matter least.

  Args:
    model, params: whose parameters are arrays.
    part: 'heads' go with all queries of their keys; 'layers' need layers that are all of one kind.
    share: of what there is; at least one goes and one stays.
    found: `influences` for layers, else `sensitivities`.
  """
  check(model.config, part)
  config: Any = model.config
  if part == "layers":
    places = _largest(np.asarray(found), _left(config.num_layers, share))
    return _made(model, num_layers=len(places)), _layers(params, places)
  assert isinstance(found, Mapping)
  experts = config.moe.num_experts if config.moe else 0
  units: int = {"heads": config.num_kv_heads, "mlp": config.mlp_dim, "experts": experts}[part]
  count = _left(units, share)
  if part == "experts" and count < config.moe.experts_per_token:
    raise UserError(f"--prune=experts leaves {count} of {units} experts, and each token goes to"
                    f" {config.moe.experts_per_token}: prune fewer")
  flat = traverse_util.flatten_dict(params)
  scores = {path[:-1]: _of_units(one, part, units) for path, one in found.items() if path[-2] == _MODULES[part]}
  if part == "heads" and any(path[-1] == "content_bias" and "attention" not in path for path in flat):
    total = sum(one.reshape(-1, units).sum(0) for one in scores.values())  # One pair of biases for all layers.
    scores = {path: np.broadcast_to(total, one.shape) for path, one in scores.items()}
  kept = {path: _largest(one, count) for path, one in scores.items()}
  _, declarations = model.declared
  names = {path: one.names for path, one in traverse_util.flatten_dict(declarations).items()}
  made = {}
  for path, leaf in flat.items():
    module = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in kept), None)
    if part == "experts" and "shared" in path:
      module = None
    if module is not None:
      leaf = _take(leaf, names[path], kept[module], part, units)
    elif part == "heads" and path[-1] in ("content_bias", "position_bias"):
      leaf = _take(leaf, names[path], next(iter(kept.values())).reshape(-1, count)[0], part, units)
    made[path] = leaf
  changes: dict[str, Any] = {"mlp_dim": count} if part == "mlp" else {}
  if part == "heads":
    changes = {"num_heads": count * config.num_heads // units, "num_kv_heads": count}
  if part == "experts":
    changes = {"moe": dataclasses.replace(config.moe, num_experts=count)}
  return _made(model, **changes), traverse_util.unflatten_dict(made)


def check(config: TransformerConfig, part: str) -> None:
  """Raises UserError for a part that a model has not, or not by itself."""
  if part == "layers" and config.period > 1:
    raise UserError("--prune=layers needs layers of one kind, each with parameters of its own, and this model repeats"
                    f" blocks of {config.period}: prune heads or mlp")
  if part == "mlp" and config.moe:
    raise UserError("--prune=mlp is for models without experts: prune experts, or heads")
  if part == "experts" and not config.moe:
    raise UserError("--prune=experts needs a mixture of experts, and this model has none: prune mlp or heads")


def _made(model: LanguageModel, **changes: Any) -> LanguageModel:
  return LanguageModel(dataclasses.replace(model.config, **changes), model.form)


def _left(count: int, share: float) -> int:
  left = count - max(1, round(share * count))
  if left < 1:
    raise UserError(f"{share:.0%} of {count} leaves none: prune less")
  return left


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
  """The places [..., count], rising, of the largest of scores [..., U]."""
  return np.sort(np.argsort(-scores, -1, kind="stable")[..., :count], -1)


def _of_units(found: np.ndarray, part: str, units: int) -> np.ndarray:
  """[*layers, U]: heads with the same keys together, an expert's columns together."""
  if part == "heads":
    return found.reshape(*found.shape[:-1], units, -1).sum(-1)
  return found.sum(-1) if part == "experts" else found


def _take(leaf: jax.Array, names: tuple[str | None, ...], kept: np.ndarray, part: str, units: int) -> jax.Array:
  """The kept units of a parameter, along the axis that it has of them, if any."""
  name = {"heads": "heads", "mlp": "mlp", "experts": "expert"}[part]
  axes = [i for i, (one, size) in enumerate(zip(names, leaf.shape))
          if one == name or part == "experts" and one is None and size == units]
  if not axes:
    return leaf
  axis, = axes
  each = leaf.shape[axis] // units  # Queries of one key.
  index = (kept[..., None] * each + np.arange(each)).reshape(*kept.shape[:-1], -1)
  shape = [1] * leaf.ndim
  shape[axis] = index.shape[-1]
  if index.ndim > 1:  # Scanned layers each have their own.
    shape[0] = len(index)
  return jnp.take_along_axis(leaf, jnp.asarray(index).reshape(shape), axis)


def _layers(params: Any, kept: np.ndarray) -> Any:
  if "layers" in params:
    return {**params, "layers": jax.tree.map(lambda leaf: leaf[kept], params["layers"])}
  own = {name: one for name, one in params.items() if not name.startswith("layers_")}
  return {**own, **{f"layers_{i}": params[f"layers_{place}"] for i, place in enumerate(kept)}}
