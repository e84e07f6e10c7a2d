"""Group-relative policy optimisation: answers that earn more than others to the same prompt become likelier."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, ClassVar, get_args, Literal

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gpt4x.errors import require, UserError
from gpt4x.models import saved_model
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sum, Sums
from gpt4x.objectives import references

Mean = Literal["answers", "tokens"]


@gin.configurable(denylist=["saved"])
@dataclasses.dataclass(frozen=True)
class GroupRelative:
  """The clipped policy gradient of what a model wrote, by advantages within groups (arXiv:2402.03300); see `Objective`.

  A batch comes from `rollouts`. Beside the `decoder_*` features [B, L] of prompts and answers it has `advantages` [B],
  `rewards` [B], `ended` [B], and `sampled_log_probs` [B, L], those that the answers' tokens were drawn with.

  The sums: `loss`; `kl`, the estimate exp(d) - d - 1 of the divergence from the reference a token, where d is
  log p_reference - log p; `reward`, `answer_tokens` and `ended`, means over answers; `clipped`, the share of tokens
  whose gradient is cut off.

  Attributes:
    rollouts: what makes a batch of prompts (`posttraining/rollouts.py`).
    clip: how far from 1 the ratio of a token's probability to that it was drawn with may be: below and above.
    mean: of 'answers', each of which counts the same; or of 'tokens' (arXiv:2503.20783, arXiv:2503.14476).
    kl: what the divergence from the reference counts for; 0: there is no reference.
    reference: the directory of the model that is not to be left; None: the base under the model's adapters.
    step: the reference's checkpoint; None: the newest, or for a run that goes on, the one that it has had.
    dtype: of the reference's kernels on the devices; 'auto' is bfloat16 on accelerators.
    saved: the reference as it was read; None: it is read when it is first asked for.
  """

  rollouts: Any
  clip: tuple[float, float] = (0.2, 0.2)
  mean: Mean = "answers"
  kl: float = 0.0
  reference: str | None = None
  step: int | None = None
  dtype: saved_model.DType = "auto"
  saved: SavedModel | None = dataclasses.field(default=None, compare=False, repr=False)

  is_likelihood: ClassVar[bool] = False

  def __post_init__(self):
    for name, choices in (("mean", get_args(Mean)), ("dtype", get_args(saved_model.DType))):
      require(self, f"one of {', '.join(choices)}", choices.__contains__, name)
    require(self, "two numbers from 0 on, the first below 1", lambda clip: len(clip) == 2 and 0 <= clip[0] < 1
            and 0 <= clip[1] < math.inf, "clip")
    require(self, "0 or more", lambda value: 0 <= value < math.inf, "kl")
    require(self, "a step from 0 on, or None", lambda step: step >= 0, "step")
    if self.kl == 0 and self.reference is not None:
      raise UserError(f"GroupRelative.reference = {self.reference!r} has no part while GroupRelative.kl = 0: set that,"
                      " or leave out the reference")

  @property
  def refers_to_base(self) -> bool:
    """Whether the base under adapters is compared with."""
    return self.kl > 0 and self.reference is None

  @functools.cached_property
  def frozen_models(self) -> dict[str, SavedModel]:
    return references.frozen_models(self)

  def with_frozen_models(self, models: Mapping[str, SavedModel]) -> "GroupRelative":
    return dataclasses.replace(self, saved=models["reference"]) if models else self

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Memory:
    if length:
      raise UserError("GroupRelative has whole prompts answered, and a stream cuts them: set"
                      " DatasetConfig.feature_converter = 'lm', with a task such as local_prompts_bytes")
    return model.initial_memory(batch_size, length, projected)

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Memory,
               rng: jax.Array | None) -> tuple[Sums, Memory]:
    log_probs, sums = references.token_log_probs(model, params, batch, rng)
    weights = batch["decoder_loss_weights"]
    lengths = jnp.sum(weights, -1)
    counts = weights if self.mean == "tokens" else weights / jnp.maximum(lengths, 1)[:, None]
    answers = (lengths > 0).astype(jnp.float32)
    of_tokens = lambda values: Sum(jnp.sum(values * counts), jnp.sum(counts))
    of_answers = lambda values: Sum(jnp.sum(values * answers), jnp.sum(answers))
    loss, clipped = policy_loss(log_probs, batch["sampled_log_probs"], batch["advantages"][:, None], self.clip)
    found = {"loss": of_tokens(loss), "clipped": of_tokens(clipped), "reward": of_answers(batch["rewards"]),
             "answer_tokens": of_answers(lengths), "ended": of_answers(batch["ended"])}
    if self.kl:
      reference, reference_params = references.of(self, model, self.frozen_models, frozen)
      before = jax.lax.stop_gradient(references.token_log_probs(reference, reference_params, batch)[0])
      further = before - log_probs
      found["kl"] = of_tokens(jnp.exp(further) - further - 1)
    return {**found, **sums}, memory

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": 1.0, "kl": self.kl, **model.coefficients}
    return {name: value for name, value in named.items() if value}


def policy_loss(log_probs: Float[Array, "B L"], sampled: Float[Array, "B L"], advantages: Float[Array, "B 1"],
                clip: tuple[float, float]) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
  """PPO's clipped loss of each token (arXiv:1707.06347, equation 7), and whether it is cut off."""
  ratio = jnp.exp(log_probs - sampled)
  plain, cut = ratio * advantages, jnp.clip(ratio, 1 - clip[0], 1 + clip[1]) * advantages
  return -jnp.minimum(plain, cut), (cut < plain).astype(jnp.float32)
