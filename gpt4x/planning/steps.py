"""What is planned: a step of training, or of decoding."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from gpt4x.checkpoints import frozen_models
from gpt4x.compression.quantization import Quantization
from gpt4x.compression.training_products import TrainingProducts
from gpt4x.data.stream import FEATURES
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.memory import Cache, RingKeyValues, StepConstants
from gpt4x.models.parameters import Declaration, map_declared, Substitute
from gpt4x.models.saved_model import SavedModel
from gpt4x.partitioning import Partitioner
from gpt4x.training import gradients
from gpt4x.training.config import TrainConfig
from gpt4x.training.initial_state import state_shapes
from gpt4x.training.state import TrainState
from gpt4x.training.step import TrainStep


class Step(Protocol):
  """What is compiled."""

  @property
  def config(self) -> TransformerConfig: ...

  @property
  def microbatches(self) -> int:
    """How often `part` is done."""

  @property
  def int8_share(self) -> float:
    """Of all arithmetic, that in products of int8."""

  def part(self) -> "Step":
    """One microbatch, in which nothing but layers is a loop."""

  def replace_config(self, **changes: Any) -> "Step": ...

  def lower(self, partitioner: Partitioner) -> jax.stages.Lowered:
    """The step on the partitioner's mesh, to be compiled."""


def for_tpu(model: LanguageModel) -> LanguageModel:
  """The model whose dtype is bfloat16 if it is 'auto', as on a TPU."""
  return changed(model, dtype="bfloat16") if model.config.dtype == "auto" else model


def changed(model: LanguageModel, **changes: Any) -> LanguageModel:
  return LanguageModel(dataclasses.replace(model.config, **changes), model.form)


@dataclasses.dataclass(frozen=True)
class TrainingStep:
  """The step that `gpt4x train` runs, on B rows of L tokens with a memory of M positions."""

  train_step: TrainStep
  batch_size: int
  segment_length: int
  memory_length: int
  microbatches: int = 1

  @classmethod
  def of(cls, config: TrainConfig) -> "TrainingStep":
    """The step of a run, checked to fit its mesh."""
    experiment = config.experiment
    config.partitioner.check_batch(experiment.dataset.batch_size, config.microbatches)
    if getattr(experiment.objective, "rollouts", None):
      raise UserError(f"{type(experiment.objective).__name__} has the model answer prompts between steps, which is not"
                      " planned: plan with OBJECTIVE = @NextToken(), and with --decode")
    if getattr(experiment.objective, "compares", None) == "triples":
      raise UserError(f"{type(experiment.objective).__name__} compares descriptions, whose rows are not planned: plan"
                      " with OBJECTIVE = @NextToken()")
    model = LanguageModel(experiment.language_model.config, getattr(experiment.model, "form", None))
    train_step = dataclasses.replace(config.step, model=for_tpu(model))
    return cls(train_step, experiment.dataset.batch_size, experiment.dataset.segment_length,
               experiment.memory_length, config.microbatches).replace_frozen(for_tpu)

  @property
  def model(self) -> LanguageModel:
    assert isinstance(self.train_step.model, LanguageModel)
    return self.train_step.model

  @property
  def config(self) -> TransformerConfig:
    return self.model.config

  def state(self, partitioner: Partitioner) -> Any:
    return state_shapes(self.train_step, self.batch_size, self.memory_length, partitioner,
                        frozen_models.shapes(self.frozen_models, partitioner))

  @property
  def frozen_models(self) -> Mapping[str, SavedModel]:
    return {**self.model.frozen_models, **getattr(self.train_step.objective, "frozen_models", {})}

  @property
  def int8_share(self) -> float:
    form = self.model.form
    if not isinstance(form, TrainingProducts) or form.format != "int8":
      return 0.0
    shapes, declarations = self.model.declared
    taken = map_declared(lambda leaf, one: leaf.size if form.takes(one) else 0, shapes, declarations)
    products = 3 * 2 * self.config.share_layers * sum(jax.tree.leaves(taken)) * form.share
    return products / self.config.flops_per_token(
        self.segment_length, self.memory_length, training=True, causal=False)

  def part(self) -> "TrainingStep":
    """The optimizer is in each, so it counts too often."""
    one = dataclasses.replace(self, train_step=dataclasses.replace(self.train_step, gradients=gradients.whole),
                              batch_size=self.batch_size // self.microbatches, microbatches=1)
    return one.replace_frozen(lambda model: changed(model, scan_layers=False))

  def replace_config(self, **changes: Any) -> "TrainingStep":
    return dataclasses.replace(self, train_step=dataclasses.replace(
        self.train_step, model=changed(self.model, **changes)))

  def replace_frozen(self, change: Callable[[LanguageModel], LanguageModel]) -> "TrainingStep":
    """The step with what `change` makes of each frozen model."""
    def changed(owner: Any) -> Any:
      models = getattr(owner, "frozen_models", {})
      return owner.with_frozen_models({
          name: dataclasses.replace(one, model=change(one.model)) for name, one in models.items()}) if models else owner

    model = LanguageModel(self.config, changed(self.model.form))
    return dataclasses.replace(self, train_step=dataclasses.replace(
        self.train_step, model=model, objective=changed(self.train_step.objective)))

  def lower(self, partitioner: Partitioner) -> jax.stages.Lowered:
    shapes = self.state(partitioner)
    more = getattr(self.train_step.objective, "token_features", None)
    features = {name: ((), dtype) for name, dtype in FEATURES.items()} | (more.features if more else {})
    batch = {name: jax.ShapeDtypeStruct((self.batch_size, self.segment_length, *shape), dtype,
                                        sharding=partitioner.sharding("batch", *(None,) * (1 + len(shape))))
             for name, (shape, dtype) in features.items()}
    with partitioner.activate():
      return self.train_step.jit(shapes).lower(shapes, batch)


def parts_of(state: TrainState) -> dict[str, Any]:
  """What stays on the devices from step to step."""
  parts = {"params": state.params, "optimizer": state.opt_state, "memory": state.memory}
  return parts | ({"frozen": state.frozen} if state.frozen else {})


@dataclasses.dataclass(frozen=True)
class DecodingStep:
  """The step of the engine that gives each of B rows a token, which attends to the W latest positions.

  Kernels that are no integers lie in the compute dtype.
  """

  model: LanguageModel
  batch_size: int
  window: int
  microbatches: ClassVar[int] = 1

  @classmethod
  def of(cls, experiment: Experiment, batch_size: int, window: int | None) -> "DecodingStep":
    return cls(for_tpu(experiment.language_model), batch_size, experiment.decoding_window(window))

  @property
  def config(self) -> TransformerConfig:
    return self.model.config

  @property
  def product_flops(self) -> float:
    """Of products with kernels, for a row."""
    c = self.config
    scores = (3 if c.positions == "relative" else 2) * c.num_heads * c.head_dim
    return c.flops_per_token(1, 0) - 2 * c.num_layers * scores  # But for the one key that a lone token has.

  @property
  def attention_flops(self) -> float:
    """Of its window: by content, by distance (rotary: ahead of the query or behind it), and of the values."""
    return 2 * 3 * self.config.num_layers * self.config.num_heads * self.config.head_dim * self.window

  @property
  def int8_share(self) -> float:
    all_int8 = isinstance(self.model.form, Quantization) and self.model.form.activations
    return all_int8 * self.product_flops / (self.product_flops + self.attention_flops)

  def part(self) -> "DecodingStep":
    return self

  def replace_config(self, **changes: Any) -> "DecodingStep":
    return dataclasses.replace(self, model=changed(self.model, **changes))

  def parts(self, partitioner: Partitioner) -> dict[str, Any]:
    """What stays on the devices, as ShapeDtypeStructs with their shardings."""
    params = self._params(partitioner)
    return {"params": params, "cache": self._cache(params, partitioner)}

  def lower(self, partitioner: Partitioner) -> jax.stages.Lowered:
    parts = self.parts(partitioner)
    tokens = jax.ShapeDtypeStruct((self.batch_size,), jnp.int32, sharding=partitioner.sharding(self._rows(partitioner)))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts["cache"])
    # Kernels that only the cache's constants are made of stay where they are, used or not.
    step = jax.jit(self.model.decode_step, donate_argnums=2, keep_unused=True, out_shardings=(None, shardings))
    with partitioner.activate():
      return step.lower(parts["params"], tokens, parts["cache"])

  def _params(self, partitioner: Partitioner) -> Any:
    shapes, declarations = self.model.declared

    def one(param, declaration):
      if not declaration.is_kernel or isinstance(param, Substitute):
        return param
      return jax.ShapeDtypeStruct(param.shape, self.config.compute_dtype)

    return partitioner.place(map_declared(one, shapes, declarations), declarations)

  def _rows(self, partitioner: Partitioner) -> str | None:
    """The name of the axis of rows; as in the engine, rows that do not divide lie on every device."""
    return "batch" if self.batch_size % partitioner.num_batch_shards == 0 else None

  def _cache(self, params: Any, partitioner: Partitioner) -> Cache:
    """The cache as the engine comes to have it: each part is split as what it is made of, heads over `tensor`."""
    memory = jax.eval_shape(lambda: self.model.initial_memory(self.batch_size, self.window, projected=True))
    cache: Any = jax.eval_shape(lambda params, memory: self.model.start_decoding(params, memory), params, memory)
    c, rows = self.config, self._rows(partitioner)
    lead = () if isinstance(cache.rings, list) else ("layers",)
    heads = [name for name, size in ((rows, self.batch_size), ("heads", c.num_kv_heads)) if size > 1]
    place = lambda tree, *names: partitioner.place(tree, Declaration(names))

    def ring(one: RingKeyValues) -> RingKeyValues:
      return RingKeyValues(*(place(x, *lead, *heads, None, None) for x in (one.keys, one.values)))

    def constants(layer: StepConstants) -> StepConstants:
      kernels = (one.replace(value=place(one.value, *lead, "embed", "heads", "kv")) for one in layer.kernels)
      positions = layer.position_keys
      return StepConstants(tuple(kernels), None if positions is None else place(positions, *lead, "heads", None, None))

    each = lambda function, layers: list(map(function, layers)) if isinstance(layers, list) else function(layers)
    return cache.replace(rings=each(ring, cache.rings), constants=each(constants, cache.constants),
                         segment_ids=place(cache.segment_ids, rows, None), index=place(cache.index),
                         places=None if cache.places is None else place(cache.places, rows, None))
