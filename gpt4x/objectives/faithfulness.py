"""How far a model says what another says, beside its own likelihood."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.sums import Sum, Sums


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
    found = [one.logits(each, batch["decoder_input_tokens"], past, batch["decoder_segment_ids"],
                        batch.get("decoder_causal_attention"))
             for one, each, past in zip((model, self.reference), (params, frozen["reference"]), memory)]
    (own, reference), memories = ([jax.nn.log_softmax(logits) for logits, _ in found], [past for _, past in found])
    weights, targets = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
    nats = lambda log_probs: -jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    mean = lambda values: Sum(jnp.sum(weights * values), jnp.sum(weights))
    seen = jnp.exp(reference)
    return {"loss": mean(nats(own)), "reference_loss": mean(nats(reference)),
            "divergence": mean(jnp.sum(jnp.where(seen > 0, seen * (reference - own), 0), -1)),
            "agreement": mean(jnp.argmax(own, -1) == jnp.argmax(reference, -1))}, (memories[0], memories[1])

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    return {"loss": 1.0}
