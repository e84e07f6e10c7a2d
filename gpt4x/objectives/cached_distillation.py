"""A student that follows what `gpt4x teach` has written down of a teacher, who need not be at hand any more."""

import dataclasses
import functools
import math
from typing import Any, get_args

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gpt4x.data.teacher_cache import IDS, LOG_PROBS, TeacherCache
from gpt4x.errors import refuse, require, UserError
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sums
from gpt4x.objectives.cross_entropy import cross_entropy
from gpt4x.objectives.distillation import Divergence, divergence, sum_of, summed
from gpt4x.objectives.groups import Groups

_NEVER = -1e30  # The logarithm of no probability; finite, so that its products with 0 are 0.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CachedDistillation:
  """The student's own likelihood, and how far its next token is from a teacher's, over the teacher's K likeliest ids.

  The sums are those of `Distillation`. The divergence is one of K + 1 outcomes, each of the K ids and `another one`:
  at most that of the whole distributions, and equal to it for K = V. The temperature is the cache's.

  Attributes:
    cache: the folder that `gpt4x teach` wrote.
    divergence, beta, weight, likelihood, z_loss: see `Distillation`.
  """

  cache: str
  divergence: Divergence = "forward"
  beta: float = 0.5
  weight: float = 1.0
  likelihood: float = 1.0
  z_loss: float = 0.0

  def __post_init__(self):
    require(self, f"one of {', '.join(get_args(Divergence))}", get_args(Divergence).__contains__, "divergence")
    require(self, "between 0 and 1", lambda share: 0 < share < 1, "beta")
    require(self, "0 or more, not negative", lambda value: 0 <= value < math.inf, "weight", "likelihood", "z_loss")

  @functools.cached_property
  def token_features(self) -> TeacherCache:
    """Where batches have it from; nothing is opened yet."""
    return TeacherCache("CachedDistillation.cache", self.cache)

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Memory:
    teacher = self.token_features.teacher
    if not isinstance(model, LanguageModel):
      raise UserError(f"CachedDistillation.cache = {self.cache!r} teaches language models, and the model to be trained"
                      f" is a {type(model).__name__}: choose another objective")
    refuse(self, model.config.vocab_size != teacher.vocab_size, "cache",
           f"is of a teacher of {teacher.vocab_size} ids: make TransformerConfig.vocab_size ="
           f" {model.config.vocab_size} as many, or name another")
    return model.initial_memory(batch_size, length, projected)

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Memory,
               rng: jax.Array | None) -> tuple[Sums, Memory]:
    del frozen
    temperature = self.token_features.teacher.temperature
    output = model.forward(params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                           batch.get("decoder_causal_attention"), dropout_rng=rng)
    groups = Groups.of(batch)
    given = {name: batch[name] for name in ("decoder_target_tokens", "decoder_loss_weights", IDS, LOG_PROBS)
             if name in batch} | ({} if groups is None else {"groups": groups.members})

    def of(hidden, *arrays):
      logits, features = model.unembed(params, hidden), dict(zip(given, arrays))
      weights = features["decoder_loss_weights"]
      known = Groups(features["groups"], groups.names) if groups else None
      sums = cross_entropy(logits, features["decoder_target_tokens"], weights, known)
      if IDS not in features:  # Of a split that the teacher was not asked about.
        return sums
      theirs = jnp.maximum(features[LOG_PROBS].astype(jnp.float32), _NEVER)
      apart = divergence(outcomes(logits / temperature, features[IDS]), theirs, self.divergence, self.beta)
      return sums | {"distillation": sum_of(apart, weights)}

    sums = summed(of, model.config.loss_chunk, output.hidden, *given.values())
    return {**sums, **output.sums}, output.memory

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": self.likelihood, "z_loss": self.z_loss, **model.coefficients}
    if self.weight:
      named["distillation"] = self.weight * self.token_features.teacher.temperature**2
    return {name: value for name, value in named.items() if value}


def outcomes(logits: Float[Array, "*batch V"], ids: Int[Array, "*batch top"]) -> Float[Array, "*batch outcomes"]:
  """The log-probabilities of K different ids and, last, of all others together."""
  log_probs = jax.nn.log_softmax(logits)
  # The sum of what is left, not one less what is known, which would be noise where little is left.
  known = jnp.put_along_axis(jnp.zeros_like(log_probs), ids, _NEVER, -1, inplace=False)
  rest = jax.nn.logsumexp(log_probs + known, -1, keepdims=True)
  return jnp.concatenate([jnp.take_along_axis(log_probs, ids, -1), rest], -1)
