"""Low-rank adapters: what is trained beside kernels that stay as they are (LoRA, arXiv:2106.09685)."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math
import re
from typing import Any, ClassVar

from flax import traverse_util
import flax.struct
import gin
import jax
import jax.numpy as jnp

from gpt4x.errors import require, UserError
from gpt4x.models import saved_model
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.parameters import contract, Declaration, Substitute
from gpt4x.models.saved_model import DType, SavedModel

RANK = "rank"  # The logical axis between the two factors.
# What may be another than the base's: it changes neither parameters nor what a token is made of.
_OF_A_RUN = {"memory_length", "eval_memory_length", "dropout_rate", "attention_dropout_rate", "dtype", "memory_dtype",
             "remat", "attention_kernel", "attention_chunk", "loss_chunk"}


@gin.configurable(denylist=["saved"])
@dataclasses.dataclass(frozen=True)
class LowRank:
  """The `form` of a LanguageModel whose parameters are adapters of another's, the base, which never changes.

  Each hidden kernel W becomes W + alpha / rank * low high, with `low` [*I, r] random and `high` [r, *O] zero at first,
  so that the first step starts from the base. Experts have none. A base of integers keeps them (arXiv:2305.14314).

  Attributes:
    base: the directory of a run or of a converted model.
    rank: r.
    alpha: what the product of the two counts for, times the rank.
    kernels: a regular expression that the whole names of adapted kernels match, such as '.*/(query|value)'.
    step: the base's checkpoint; None: the newest.
    dtype: of the base's kernels in training; auto: the model's compute dtype.
    saved: the base itself, where it is not to be looked for in `base`.
  """

  base: str
  rank: int = 8
  alpha: float = 16.0
  kernels: str = ".*"
  step: int | None = None
  dtype: DType = "auto"
  saved: SavedModel | None = None

  GIN_NAME: ClassVar[str] = "LowRank"
  stored: ClassVar[bool] = False

  def __post_init__(self):
    require(self, "at least 1", lambda rank: rank >= 1, "rank")
    require(self, "above 0", lambda alpha: 0 < alpha < math.inf, "alpha")
    require(self, "a step from 0 on, or None", lambda step: step >= 0, "step")
    try:
      re.compile(self.kernels)
    except (re.error, RecursionError) as error:
      raise UserError(f"LowRank.kernels = {self.kernels!r} is no regular expression ({error}): correct it") from error

  @functools.cached_property
  def frozen_models(self) -> dict[str, SavedModel]:
    """The base; only where parameters are asked for is it looked for."""
    return {"base": self.saved or saved_model.read("LowRank.base", self.base, self.step, self.dtype)}

  def with_frozen_models(self, models: Mapping[str, SavedModel]) -> "LowRank":
    return dataclasses.replace(self, saved=models["base"])

  def __call__(self, params: Any, declarations: Any) -> Any:
    return params

  def used(self, params: Any, declarations: Any, training: bool) -> Any:
    """What a model computes with, of whole parameters."""
    return params

  def declared(self, config: TransformerConfig, shapes: Any, declarations: Any) -> tuple[Any, Any]:
    """The shapes and Declarations of the adapters of a model's arrays."""
    self._check(config)
    leaves, declared = {}, {}
    for path, leaf, one in self._adapted(shapes, declarations):
      lead, names = len(one.leading_axes), one.names
      inputs = lead + len(one.summed)
      for part, shape, axes, summed in (
          ("low", (*leaf.shape[:inputs], self.rank), (*names[:inputs], RANK), one.summed),
          ("high", (*leaf.shape[:lead], self.rank, *leaf.shape[inputs:]), (*names[:lead], RANK, *names[inputs:]),
           (RANK,))):
        leaves[*path, part] = jax.ShapeDtypeStruct(shape, jnp.float32)
        declared[*path, part] = Declaration(axes, summed)
    if not leaves:
      raise UserError(f"LowRank.kernels = {self.kernels!r} matches no hidden kernel: it is matched with whole names,"
                      " such as 'layers/attention/query'")
    return traverse_util.unflatten_dict(leaves), traverse_util.unflatten_dict(declared)

  def init(self, rng: jax.Array, shapes: Any, declarations: Any) -> Any:
    """Fresh adapters, which add nothing, as `declared` has them."""
    flat, made = traverse_util.flatten_dict(declarations), {}
    for i, (path, leaf) in enumerate(traverse_util.flatten_dict(shapes).items()):
      fan_in = math.prod(leaf.shape[len(flat[path].leading_axes):-1])
      made[path] = (jnp.zeros(leaf.shape) if path[-1] == "high" else
                    jax.random.normal(jax.random.fold_in(rng, i), leaf.shape) * fan_in**-0.5)
    return traverse_util.unflatten_dict(made)

  def whole(self, params: Any, base: Any) -> Any:
    """The base's parameters, with adapters in the places of the kernels that have them."""
    flat, adapters = traverse_util.flatten_dict(base), traverse_util.flatten_dict(params)
    for path in {path[:-1] for path in adapters}:
      flat[path] = Adapted(flat[path], adapters[*path, "low"], adapters[*path, "high"], self.alpha / self.rank)
    return traverse_util.unflatten_dict(flat)

  def whole_model(self, model: LanguageModel) -> LanguageModel:
    """The model as it is with whole parameters, of the base's form."""
    return LanguageModel(model.config, self.frozen_models["base"].model.form)

  def _adapted(self, shapes: Any, declarations: Any) -> Iterator[tuple[tuple[str, ...], Any, Declaration]]:
    kernels, flat = re.compile(self.kernels), traverse_util.flatten_dict(declarations)
    for path, leaf in traverse_util.flatten_dict(shapes).items():
      one = flat[path]
      if one.is_hidden and "expert" not in one.names and kernels.fullmatch("/".join(path)):
        yield path, leaf, one

  def _check(self, config: TransformerConfig) -> None:
    """Raises UserError if the base is another model, or has no gradient."""
    base = self.frozen_models["base"]
    if getattr(base.model.form, "activations", False):
      raise UserError(f"LowRank.base = {base.directory!r} rounds what its kernels multiply (int8-all), which has no"
                      " gradient: compress it with --quantize=int8 or int4")
    for field in dataclasses.fields(config):
      theirs, ours = (getattr(one, field.name) for one in (base.model.config, config))
      if theirs != ours and field.name not in _OF_A_RUN:
        raise UserError(f"LowRank.base = {base.directory!r} has TransformerConfig.{field.name} = {theirs!r}, and this"
                        f" model {ours!r}: make it the base's")


@flax.struct.dataclass
class Adapted(Substitute):
  """A kernel, and `scale` times low by high."""

  kernel: Any  # An array or a Substitute.
  low: jax.Array  # [*I, r]
  high: jax.Array  # [r, *O]
  scale: float = flax.struct.field(pytree_node=False)

  joinable: ClassVar[bool] = False

  def dense(self, dtype):
    kernel = self.kernel.dense(jnp.float32) if isinstance(self.kernel, Substitute) else self.kernel
    added = lambda low, high: jnp.tensordot(low, high, 1)
    for _ in range(self.low.ndim + self.high.ndim - 2 - kernel.ndim):  # Layers that are scanned.
      added = jax.vmap(added)
    return (kernel + self.scale * added(self.low, self.high)).astype(dtype)

  def product(self, x, summed):
    if isinstance(self.kernel, Substitute):
      y = self.kernel.product(x, summed)
    else:
      y = contract(x, self.kernel.astype(x.dtype), summed)
    small = contract(x, self.low.astype(x.dtype), tuple(range(len(summed))))
    return y + self.scale * contract(small, self.high.astype(x.dtype), (0,))


def merged(params: Any) -> Any:
  """Whole parameters with what adapters add in the kernels themselves, where these are arrays."""
  is_array = lambda one: isinstance(one, Adapted) and not isinstance(one.kernel, Substitute)
  return jax.tree.map(lambda one: one.dense(jnp.float32) if is_array(one) else one, params,
                      is_leaf=lambda x: isinstance(x, Adapted))
