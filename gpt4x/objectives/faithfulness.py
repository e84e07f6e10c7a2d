"""How far a model says what another says, beside its own likelihood."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.sums import Sum, Sums
from gpt4x.objectives.cross_entropy import cross_entropy
from gpt4x.objectives.distillation import divergence


@dataclasses.dataclass(frozen=True)
class Faithfulness:
  """For evaluation: the sums of both models, each with its memory; see `Objective`.

  `loss` is the model's own, in nats; `reference_loss` the other's; `divergence` is KL(reference || model), in nats a
  token; `agreement` the share of tokens of which both say the same next one. `frozen` has the other's parameters, as
  'reference'.
  """

  reference: LanguageModel

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int,
                     projected: bool = False) -> tuple[Memory, Memory]:
    own, other = (one.initial_memory(batch_size, length, projected) for one in (model, self.reference))
    return own, other

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: tuple[Memory, Memory],
               rng: jax.Array | None) -> tuple[Sums, tuple[Memory, Memory]]:
    inputs = batch["decoder_input_tokens"], batch["decoder_segment_ids"], batch.get("decoder_causal_attention")
    (own, after), (reference, others_after) = (
        one.logits(each, inputs[0], past, *inputs[1:])
        for one, each, past in zip((model, self.reference), (params, frozen["reference"]), memory))
    weights, targets = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
    mean = lambda values: Sum(jnp.sum(weights * values), jnp.sum(weights))
    return {"loss": cross_entropy(own, targets, weights)["loss"],
            "reference_loss": cross_entropy(reference, targets, weights)["loss"],
            "divergence": mean(divergence(own, reference)),
            "agreement": mean(jnp.argmax(own, -1) == jnp.argmax(reference, -1))}, (after, others_after)

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    return {"loss": 1.0}
