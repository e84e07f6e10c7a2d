"""The likelihood of the next token."""

import dataclasses
from typing import Any

import gin
import jax

from gpt4x.models.language_model import Batch, LanguageModel, Output, Params
from gpt4x.models.memory import Memory
from gpt4x.models.sums import Sums
from gpt4x.objectives.cross_entropy import cross_entropy, linear_cross_entropy
from gpt4x.objectives.groups import Groups


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NextToken:
  """Negative log-likelihood of each target token, in nats; see `Objective`.

  Attributes:
    z_loss: coefficient of log(Z)^2, which keeps the softmax normaliser near 1 (arXiv:2204.02311, section 5).
  """

  z_loss: float = 0.0

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Memory:
    return model.initial_memory(batch_size, length, projected)

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Memory,
               rng: jax.Array | None) -> tuple[Sums, Memory]:
    del frozen
    output, sums = forward(model, params, batch, memory, rng, self.z_loss)
    return sums, output.memory

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": 1.0, "z_loss": self.z_loss, **model.coefficients}
    return {name: value for name, value in named.items() if value}


def forward(model: LanguageModel, params: Params, batch: Batch, memory: Memory, rng: jax.Array | None,
            z_loss: float) -> tuple[Output, Sums]:
  """What a batch comes to, and the sums of its cross entropy and of the model's own."""
  output = model.forward(params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                         batch.get("decoder_causal_attention"), dropout_rng=rng)
  targets, weights, groups = batch["decoder_target_tokens"], batch["decoder_loss_weights"], Groups.of(batch)
  if model.logits_chunk:
    hidden, kernel, bias = model.unembedding(params, output.hidden)
    sums = linear_cross_entropy(hidden, kernel.dense(), bias, targets, weights, z_loss, model.logits_chunk, groups)
  else:
    sums = cross_entropy(model.unembed(params, output.hidden), targets, weights, groups)
  return output, {**sums, **output.sums}
