"""Direct preference optimisation (arXiv:2305.18290): the better one of two answers is to become likelier."""

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

Loss = Literal["sigmoid", "ipo"]


@gin.configurable(denylist=["saved"])
@dataclasses.dataclass(frozen=True)
class Preference:
  """How a model and its frozen reference tell the chosen answer from the rejected one; see `Objective`.

  Each row holds a pair: segment 1 is the chosen sequence, segment 2 the rejected one. The sums, over pairs: `loss`;
  `reward_accuracy`, whether the chosen one has the larger reward, beta (log p - log p_reference); `reward_margin`;
  `chosen_reward` and `rejected_reward`. Beside them `likelihood`, the chosen answers' own, negative, over tokens.

  Attributes:
    reference: its model directory, which training starts from; None: the base under the model's adapters.
    step: the reference's checkpoint; None: the newest, or for a run that goes on, the one that it has had.
    beta: how far the model may go from the reference: the smaller, the further.
    smoothing: the share of pairs whose labels are taken to be wrong (conservative DPO).
    kind: 'sigmoid'; or 'ipo', a squared error of the margin, which does not grow without end (arXiv:2310.12036).
    likelihood: what the chosen answers' own likelihood counts for (arXiv:2404.19733).
    dtype: of the reference's kernels on the devices; 'auto' is bfloat16 on accelerators.
    saved: the reference as it was read; None: it is read when it is first asked for.
  """

  reference: str | None = None
  step: int | None = None
  beta: float = 0.1
  smoothing: float = 0.0
  kind: Loss = "sigmoid"
  likelihood: float = 0.0
  dtype: saved_model.DType = "auto"
  saved: SavedModel | None = dataclasses.field(default=None, compare=False, repr=False)

  is_likelihood: ClassVar[bool] = False
  compares: ClassVar[str] = "pairs"  # Its data has to have two answers.

  def __post_init__(self):
    for name, choices in (("kind", get_args(Loss)), ("dtype", get_args(saved_model.DType))):
      require(self, f"one of {', '.join(choices)}", choices.__contains__, name)
    require(self, "above 0", lambda value: 0 < value < math.inf, "beta")
    require(self, "from 0 up to a half", lambda share: 0 <= share < 0.5, "smoothing")
    require(self, "0 or more", lambda value: 0 <= value < math.inf, "likelihood")
    require(self, "a step from 0 on, or None", lambda step: step >= 0, "step")

  @property
  def refers_to_base(self) -> bool:
    """Whether the base under adapters is compared with."""
    return self.reference is None

  @functools.cached_property
  def frozen_models(self) -> dict[str, SavedModel]:
    return references.frozen_models(self)

  def with_frozen_models(self, models: Mapping[str, SavedModel]) -> "Preference":
    return dataclasses.replace(self, saved=models["reference"]) if models else self

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Memory:
    if length:
      raise UserError("Preference compares whole answers, and a stream cuts them: set DatasetConfig.feature_converter ="
                      " 'lm', with a task such as local_preferences_bytes")
    return model.initial_memory(batch_size, length, projected)

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Memory,
               rng: jax.Array | None) -> tuple[Sums, Memory]:
    reference, reference_params = references.of(self, model, self.frozen_models, frozen)
    log_probs, sums = references.token_log_probs(model, params, batch, rng)
    before = jax.lax.stop_gradient(references.token_log_probs(reference, reference_params, batch)[0])
    weights, segments = batch["decoder_loss_weights"], batch["decoder_segment_ids"]
    of = lambda values, segment: jnp.sum(values * weights * (segments == segment), -1)  # [B]
    chosen, rejected = (self.beta * of(log_probs - before, segment) for segment in (1, 2))
    pairs = (of(jnp.ones_like(log_probs), 2) > 0).astype(jnp.float32)  # The last rows of a split may be padding.
    mean = lambda values: Sum(jnp.sum(values * pairs), jnp.sum(pairs))
    return {
        "loss": mean(preference_loss(chosen - rejected, self.smoothing, self.kind)),
        "reward_accuracy": mean((chosen > rejected).astype(jnp.float32)), "reward_margin": mean(chosen - rejected),
        "chosen_reward": mean(chosen), "rejected_reward": mean(rejected),
        "likelihood": Sum(-jnp.sum(of(log_probs, 1)), jnp.sum(of(jnp.ones_like(log_probs), 1))), **sums}, memory

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": 1.0, "likelihood": self.likelihood, **model.coefficients}
    return {name: value for name, value in named.items() if value}


def preference_loss(margin: Float[Array, " B"], smoothing: float = 0.0, kind: Loss = "sigmoid") -> Float[Array, " B"]:
  """The loss of each pair by the margin of its rewards, those of the chosen less those of the rejected answer.

  'sigmoid' is equation 7 of arXiv:2305.18290, with labels that are wrong in a share `smoothing` of the pairs; 'ipo' is
  equation 17 of arXiv:2310.12036 in these units, where the margin is to be 1/2.
  """
  if kind == "ipo":
    return jnp.square(margin - 0.5)
  return -(1 - smoothing) * jax.nn.log_sigmoid(margin) - smoothing * jax.nn.log_sigmoid(-margin)
