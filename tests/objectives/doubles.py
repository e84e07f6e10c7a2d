"""An objective of the kind to come: a student follows a frozen teacher, each with a memory of its own."""

import dataclasses

import jax
import jax.numpy as jnp

from gpt4x.models.language_model import LanguageModel
from gpt4x.models.sums import Sum
from gpt4x.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True)
class Distillation:
  """The next token's likelihood, and the divergence from a teacher on the tokens whose target is even."""

  teacher: LanguageModel
  weight: float = 0.5

  def initial_memory(self, model, batch_size, length, projected=False):
    return {"student": model.initial_memory(batch_size, length, projected),
            "teacher": self.teacher.initial_memory(batch_size, length, projected)}

  def __call__(self, model, params, frozen, batch, memory, rng):
    sums, student = NextToken()(model, params, {}, batch, memory["student"], rng)
    inputs = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
    ours, _ = model.logits(params, inputs[0], memory["student"], inputs[1])
    theirs, teacher = self.teacher.logits(frozen["teacher"], inputs[0], memory["teacher"], inputs[1])
    divergence = jnp.sum(jax.nn.softmax(theirs) * (jax.nn.log_softmax(theirs) - jax.nn.log_softmax(ours)), -1)
    weights = batch["decoder_loss_weights"] * (batch["decoder_target_tokens"] % 2 == 0)
    sums = {**sums, "divergence": Sum(jnp.sum(weights * divergence), jnp.sum(weights))}
    return sums, {"student": student, "teacher": teacher}

  def coefficients(self, model):
    return NextToken().coefficients(model) | {"divergence": self.weight}
