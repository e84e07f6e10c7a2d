"""Our language model as a t5x model: what t5x's trainer, evaluator and decoders call."""

from collections.abc import Mapping
from typing import Any

import clu.metrics
import flax.core
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
from t5x import metrics as t5x_metrics
from t5x import models, optimizers

from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.evaluation.likelihood import target_bytes
from gpt4x.experiment import Experiment
from gpt4x.models.language_model import Batch
from gpt4x.models.memory import Cache, Memory, RingKeyValues
from gpt4x.models.sums import Sums, weighted_mean
from gpt4x.models.transformer_xl import TransformerXL


class _Module(TransformerXL):
  """Tells t5x that the rows of a decoding cache lie on axis 1, where `_t5x_cache` puts them."""

  scan_layers = True


class TransformerXLModel(models.DecoderOnlyModel):
  """An experiment's model for t5x.

  An experiment's memory is `flax_mutables["memory"]`: {"layers": [N, B, M, D], "segment_ids": [B, M]}.

  Args:
    experiment: model and data, as for our own loop.
    optimizer_def: see `optimizer.OptaxOptimizer`; None where nothing is trained.
    carry_memory: whether the train state has a memory; t5x's eval and infer modes have no use for it.
    split_memory: whether the memory's M is split over the `model` axis, as our own loop does if that divides M.
    decode_fn: t5x's `temperature_sample` or `beam_search`.
  """

  def __init__(self, experiment: Experiment, optimizer_def: optimizers.OptimizerDefType | None = None,
               carry_memory: bool = True, split_memory: bool = False,
               decode_fn: models.DecodeFnCallable = models.decoding.temperature_sample):
    model = experiment.language_model
    if model.config.moe and model.config.moe.bias_rate:
      raise UserError("MoEConfig.bias_rate > 0 moves biases after each step, which t5x has no place for: set it to 0"
                      " and MoEConfig.balance_loss above 0, or use --loop=gpt4x")
    if frozen := getattr(experiment.objective, "frozen_models", {}):
      raise UserError(f"{next(iter(frozen.values())).parameter} is set, and t5x has no place for parameters that are"
                      " never trained: choose another objective, or use --loop=gpt4x")
    if getattr(experiment.objective, "rollouts", None):
      raise UserError(f"{type(experiment.objective).__name__} has the model answer prompts between steps, for which t5x"
                      " has no place: use --loop=gpt4x")
    if more := getattr(experiment.objective, "token_features", None):
      raise more.error("has more features of each token, for which t5x has no place: choose another objective, or use"
                       " --loop=gpt4x")
    self.language_model, self.objective, self.dataset = model, experiment.objective, experiment.dataset
    self.coefficients = self.objective.coefficients(self.language_model)
    self.memory_length = experiment.memory_length if carry_memory else 0
    self.split_memory = split_memory
    self.eval_memory_length = experiment.eval_memory_length
    self._token_bytes = vocabularies.token_bytes(experiment.data.vocabulary)
    super().__init__(_Module(model.config), experiment.data.vocabulary, optimizer_def,
                     decode_fn, inputs_bidirectional_attention=experiment.dataset.feature_converter == "prefix_lm")

  def get_initial_variables(self, rng: jax.Array, input_shapes: Mapping[str, tuple[int, ...]],
                            input_types: Mapping[str, Any] | None = None) -> flax.core.FrozenDict:
    """Fresh parameters and an empty memory, with their logical axis names."""
    del input_types
    variables = dict(self.language_model.variables(rng))
    if self.memory_length:
      rows = input_shapes["decoder_input_tokens"][0]
      variables |= self.mutables(self.language_model.initial_memory(rows, self.memory_length))
      axes = {"layers": ("layers", "batch", "residual_length" if self.split_memory else "length", "embed"),
              "segment_ids": ("batch", "length")}
      variables["memory_axes"] = {
          f"{name}_axes": nn_partitioning.AxisMetadata(names=names) for name, names in axes.items()}
    return flax.core.freeze(variables)

  def loss_fn(self, params: Any, batch: Batch, dropout_rng: jax.Array | None, flax_mutables: Any = None):
    """The mean objective and its metrics; with memory, (metrics, the memory L positions on) in their place."""
    sums, memory = self.sums(params, batch, self.memory(batch, flax_mutables), dropout_rng)
    loss, metrics = weighted_mean(sums, self.coefficients), self.metrics(sums, batch)
    return loss, metrics if flax_mutables is None else (metrics, self.mutables(memory))

  def sums(self, params: Any, batch: Batch, memory: Memory, rng: jax.Array | None) -> tuple[Sums, Memory]:
    """The objective's sums for a batch, and the memory L positions on."""
    return self.objective(self.language_model, params, {}, _with_segment_ids(batch), memory, rng)

  def eval_segment(self, params: Any, batch: Batch, memory: Memory) -> tuple[dict[str, Any], Memory]:
    """Metrics of a batch that continues from `memory`, and the memory after it."""
    sums, memory = self.sums(params, batch, memory, None)
    return self.metrics(sums, batch), memory

  def mutables(self, memory: Memory) -> flax.core.FrozenDict:
    kept = {"layers": memory.layers, "segment_ids": memory.segment_ids, "places": memory.places}
    return flax.core.freeze({"memory": {name: one for name, one in kept.items() if one is not None}})

  def memory(self, batch: Batch, flax_mutables: Any) -> Memory:
    if flax_mutables is None:
      return self.language_model.initial_memory(batch["decoder_input_tokens"].shape[0], 0)
    return Memory(**flax_mutables["memory"])

  def metrics(self, sums: Sums, batch: Batch) -> dict[str, Any]:
    """clu metrics, which t5x merges over the steps of a report; bytes are those of the targets' text."""
    average = lambda total, count: clu.metrics.Average(total=total, count=count)
    loss, num_bytes = sums["loss"], target_bytes(
        jnp.asarray(self._token_bytes, jnp.float32), batch)[""]
    return {name: average(one.value, one.weight) for name, one in sums.items() if not one.value.ndim} | {
        "bits_per_byte": average(sums.get("loss_text", loss).value / jnp.log(2.0), num_bytes),
        "tokens": t5x_metrics.Sum(total=loss.weight),
        "tokens_per_second": t5x_metrics.TimeRate.from_model_output(numerator=loss.weight),
        "steps_per_second": t5x_metrics.StepsPerTime.from_model_output()}

  def _compute_logits(self, params, batch, dropout_rng=None, mutable=False, other_variables=None):
    """Logits [B, L, V] of examples without memory; nothing is sown, so there are no intermediates."""
    del other_variables
    logits, _ = self.language_model.logits(
        params, batch["decoder_input_tokens"], self.memory(batch, None),
        _with_segment_ids(batch)["decoder_segment_ids"], self._get_decoder_causal_attention(batch),
        dropout_rng=dropout_rng)
    return (logits, {}) if mutable else logits

  # Decoding. All rows advance together, but prompts end at different positions. They are moved to the right, where all
  # end at one position of the ring.

  def _compute_kv_cache(self, params, inputs, causal_attention_mask):
    """The cache after each prompt without its last token, and the index [B] of that token."""
    lengths = jnp.sum(inputs[:, 1:] != 0, axis=-1)  # The first input of a document is 0 and does not count.
    rows, length = inputs.shape
    shift = length - 1 - lengths
    tokens = jax.vmap(jnp.roll)(inputs, shift)
    segment_ids = (jnp.arange(length) >= shift[:, None]).astype(jnp.int32)
    prefix = segment_ids if self._inputs_bidirectional_attention else None
    memory = self.language_model.initial_memory(rows, length, projected=True)
    _, memory = self.language_model.prefill(params, tokens, segment_ids, memory, prefix)
    # The sampler begins with the prompt's last token, so that token leaves the memory again.
    memory = memory.roll(1)
    places, config = memory.places, self.language_model.config
    if config.code_places:
      places = config.code_places.find(tokens[:, :-1], config.code_places.start(rows))[2]
    memory = Memory(memory.layers, memory.segment_ids.at[:, 0].set(0), places=places)
    return _t5x_cache(self.language_model.start_decoding(params, memory)), lengths

  def _compute_logits_from_slice(self, decoding_state, params, max_decode_length):
    """Logits [B, V] after one token of each row, and the cache moved on by one."""
    del max_decode_length
    logits, cache = self.language_model.decode_step(
        params, decoding_state.cur_token[:, 0], _ring_cache(decoding_state.cache))
    return logits, _t5x_cache(cache)


def _with_segment_ids(batch: Batch) -> dict[str, jax.Array]:
  """Adds the segment ids that seqio leaves out where a row has one example; its padding is 0."""
  return {"decoder_segment_ids": (batch["decoder_target_tokens"] > 0).astype(jnp.int32), **batch}


# t5x moves the rows of every leaf of a cache, on axis 1, but those of two names.
_SAME_IN_ALL_ROWS, _POSITION = "cached_bias", "position_embedder_index"


def _t5x_cache(cache: Cache) -> dict[str, Any]:
  layers: Any = (cache.rings, cache.constants)
  if isinstance(cache.rings, list):
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(*layers))
  rings, constants = layers
  rows = cache.segment_ids.shape[0]
  rings = jax.tree.map(lambda x: x.reshape(len(x), rows, -1, *x.shape[-2:]), rings)  # [N, B, G, W, K], even with B = 1.
  return {"keys": rings.keys, "values": rings.values, "segment_ids": cache.segment_ids[None],
          "constants": {_SAME_IN_ALL_ROWS: constants},
          _POSITION: cache.index, **({} if cache.places is None else {"places": cache.places[None]})}


def _ring_cache(cache: Mapping[str, Any]) -> Cache:
  return Cache(RingKeyValues(cache["keys"], cache["values"]), cache["constants"][_SAME_IN_ALL_ROWS],
               cache["segment_ids"][0], cache[_POSITION], cache["places"][0] if "places" in cache else None)
