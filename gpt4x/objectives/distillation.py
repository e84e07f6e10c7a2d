"""A student that follows a teacher, on the data's own tokens or on what it goes on with by itself."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, get_args, Literal

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gpt4x.errors import refuse, require, UserError
from gpt4x.models import saved_model
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.shapes import Array, in_chunks
from gpt4x.models.sums import Sum, Sums
from gpt4x.objectives.cross_entropy import cross_entropy
from gpt4x.objectives.groups import Groups
from gpt4x.objectives.on_policy import check, continued

Divergence = Literal["forward", "reverse", "jsd"]


@gin.configurable(denylist=["saved"])
@dataclasses.dataclass(frozen=True)
class Distillation:
  """The student's own likelihood, and how far its next token's distribution is from a frozen teacher's.

  The sum `loss` is the student's negative log-likelihood; `distillation` the divergence, in nats a token;
  `hidden_error` the mean squared error of the hidden states of `hidden`. The teacher has a memory of its own length,
  reset where the student's is. See `Objective`.

  In a share `on_policy` of the training steps `distillation` is of what the student draws itself behind the rows' first
  tokens (arXiv:2306.13649); the sum `on_policy` says in which. All else is of the data, the memory left behind too.

  Attributes:
    teacher: its model directory, or the URL of one.
    step: the teacher's checkpoint; None: the newest, or for a run that goes on, the one that it has had.
    divergence: 'forward', KL(teacher || student); 'reverse', KL(student || teacher); 'jsd', the generalised
      Jensen-Shannon divergence of arXiv:2306.13649, equation 1.
    beta: the teacher's share in the mixture of 'jsd'.
    temperature: what the logits of both are divided by.
    weight: what the divergence counts for; it is multiplied by temperature^2, or gradients would fall with that.
    likelihood: what the student's own likelihood counts for.
    hidden: activations of the student, and those of the teacher that they are to be like, by their names in
      `TransformerXL.__call__`: {'layers.1.output': 'layers.3.output'}.
    hidden_weight: what `hidden_error` counts for.
    z_loss: see `NextToken`.
    on_policy: the share of steps, or microbatches, whose divergence is on the student's own samples.
    prompt_length: the tokens of each row before these; None: half of the row.
    eos_id: the id that ends a document, and so a sample; None: none does.
    dtype: of the teacher's kernels on the devices; 'auto' is bfloat16 on accelerators.
    saved: the teacher as it was read; None: it is read when it is first asked for.
  """

  teacher: str
  step: int | None = None
  divergence: Divergence = "forward"
  beta: float = 0.5
  temperature: float = 1.0
  weight: float = 1.0
  likelihood: float = 1.0
  hidden: Mapping[str, str] | None = None
  hidden_weight: float = 1.0
  z_loss: float = 0.0
  on_policy: float = 0.0
  prompt_length: int | None = None
  eos_id: int | None = 1
  dtype: saved_model.DType = "auto"
  saved: SavedModel | None = dataclasses.field(default=None, compare=False, repr=False)

  def __post_init__(self):
    for name, choices in (("divergence", get_args(Divergence)), ("dtype", get_args(saved_model.DType))):
      require(self, f"one of {', '.join(choices)}", choices.__contains__, name)
    require(self, "between 0 and 1", lambda share: 0 < share < 1, "beta")
    require(self, "above 0", lambda value: 0 < value < math.inf, "temperature")
    require(self, "0 or more, not negative", lambda value: 0 <= value < math.inf,
            "weight", "likelihood", "hidden_weight", "z_loss")
    require(self, "a step from 0 on, or None", lambda step: step >= 0, "step")
    require(self, "a share from 0 to 1", lambda share: 0 <= share <= 1, "on_policy")
    require(self, "at least 1, or None", lambda length: length >= 1, "prompt_length")

  @functools.cached_property
  def frozen_models(self) -> dict[str, SavedModel]:
    """The teacher; only where training or evaluation asks for it is it looked for."""
    saved = self.saved or saved_model.read("Distillation.teacher", self.teacher, self.step, self.dtype)
    return {"teacher": saved}

  def with_frozen_models(self, models: Mapping[str, SavedModel]) -> "Distillation":
    return dataclasses.replace(self, saved=models["teacher"])

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int,
                     projected: bool = False) -> dict[str, Memory]:
    """Both memories; the teacher's is as long as its own configuration says, unless the data carries none."""
    teacher = self.frozen_models["teacher"].model
    self._check(model, teacher)
    own = teacher.config.eval_memory_length if projected else teacher.config.memory_length
    return {"student": model.initial_memory(batch_size, length, projected),
            "teacher": teacher.initial_memory(batch_size, own if length else 0, projected)}

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Mapping[str, Memory],
               rng: jax.Array | None) -> tuple[Sums, dict[str, Memory]]:
    teacher, hidden = self.frozen_models["teacher"].model, self.hidden or {}
    tokens, documents = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
    prefix = batch.get("decoder_causal_attention")
    ours = model.forward(params, tokens, memory["student"], documents, prefix, dropout_rng=rng, capture=hidden.keys())
    theirs = jax.lax.stop_gradient(teacher.forward(
        frozen["teacher"], tokens, memory["teacher"], documents, prefix, capture=hidden.values()))
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    groups = Groups.of(batch)

    def of(ours, theirs, targets, weights, *members):
      logits, apart = self._apart(model, params, frozen, ours, theirs)
      known = Groups(members[0], groups.names) if groups else None
      return cross_entropy(logits, targets, weights, known) | {"distillation": sum_of(apart, weights)}

    sums = summed(of, model.config.loss_chunk, ours.hidden, theirs.hidden, targets, weights,
                   *(() if groups is None else (groups.members,)))
    if hidden:
      errors = [jnp.mean(jnp.square(ours.captures[one].astype(jnp.float32) - theirs.captures[other]), -1)
                for one, other in hidden.items()]
      sums["hidden_error"] = sum_of(jnp.mean(jnp.stack(errors), 0), weights)
    if self.on_policy and rng is not None:
      sums |= self._on_policy(model, params, frozen, batch, memory, rng, sums["distillation"])
    return {**sums, **ours.sums}, {"student": ours.memory, "teacher": theirs.memory}

  def _apart(self, model: LanguageModel, params: Params, frozen: Any, ours: jax.Array,
             theirs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The student's logits of its hidden states, and how far they are from the teacher's of its own."""
    logits = model.unembed(params, ours)
    taught = jax.lax.stop_gradient(self.frozen_models["teacher"].model.unembed(frozen["teacher"], theirs))
    return logits, divergence(logits / self.temperature, taught / self.temperature, self.divergence, self.beta)

  def _on_policy(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Mapping[str, Memory],
                 rng: jax.Array, given: Sum) -> dict[str, Sum]:
    """The divergence on the student's samples or, in the other steps, the `given` one; and which of them it is.

    The weights stay those of the data, so what counts is the mean over the tokens that were drawn.
    """
    teacher = self.frozen_models["teacher"].model
    coin, draws, dropout = jax.random.split(rng, 3)
    sampled = jax.random.bernoulli(coin, self.on_policy)

    def of(ours, theirs, weights):
      return {"": sum_of(self._apart(model, params, frozen, ours, theirs)[1], weights)}

    def on_samples():
      rows = continued(model, jax.lax.stop_gradient(params), batch, memory["student"], self.prompt_length, self.eos_id,
                       draws)
      tokens, documents = rows["decoder_input_tokens"], rows["decoder_segment_ids"]
      ours = model.forward(params, tokens, memory["student"], documents, dropout_rng=dropout).hidden
      theirs = teacher.forward(frozen["teacher"], tokens, memory["teacher"], documents).hidden
      found = summed(of, model.config.loss_chunk, ours, jax.lax.stop_gradient(theirs), rows["decoder_loss_weights"])[""]
      return found.value / jnp.maximum(found.weight, 1.0) * given.weight

    value = jax.lax.cond(sampled, on_samples, lambda: given.value)
    return {"distillation": Sum(value, given.weight), "on_policy": Sum(sampled * given.weight, given.weight)}

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": self.likelihood, "z_loss": self.z_loss, "distillation": self.weight * self.temperature**2,
             "hidden_error": self.hidden_weight if self.hidden else 0.0, **model.coefficients}
    return {name: value for name, value in named.items() if value}

  def _check(self, model: LanguageModel, teacher: LanguageModel) -> None:
    """Raises UserError unless the two models can be compared."""
    if not isinstance(model, LanguageModel):
      raise UserError(f"Distillation.teacher = {self.teacher!r} teaches language models, and the model to be trained is"
                      f" a {type(model).__name__}: choose another objective")
    refuse(self, model.config.vocab_size != teacher.config.vocab_size, "teacher",
           f"gives logits of {teacher.config.vocab_size} ids: make TransformerConfig.vocab_size ="
           f" {model.config.vocab_size} as many, or name another")
    if self.on_policy:
      check(self, model)
    hidden = self.hidden or {}
    for whose, one, names in (("student", model, hidden.keys()), ("teacher", teacher, hidden.values())):
      try:
        one.module.wanted(names)
      except UserError as error:
        raise UserError(f"Distillation.hidden = {self.hidden!r}: in the {whose} {error}") from None
    refuse(self, hidden and model.config.embed_dim != teacher.config.embed_dim, "hidden",
           f"compares hidden states of width {model.config.embed_dim} with a teacher's of {teacher.config.embed_dim}:"
           " leave it out, or make TransformerConfig.embed_dim the teacher's")


def divergence(student: Float[Array, "*batch V"], teacher: Float[Array, "*batch V"], kind: Divergence = "forward",
               beta: float = 0.5) -> Float[Array, "*batch"]:
  """How far the distributions of two logits are from each other, in nats; see `Distillation`."""
  ours, theirs = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
  from_to = lambda one, other: jnp.sum(jnp.exp(one) * (one - other), -1)
  if kind == "forward":
    return from_to(theirs, ours)
  if kind == "reverse":
    return from_to(ours, theirs)
  mixture = jnp.logaddexp(theirs + math.log(beta), ours + math.log1p(-beta))
  return beta * from_to(theirs, mixture) + (1 - beta) * from_to(ours, mixture)


def sum_of(values: jax.Array, weights: jax.Array) -> Sum:
  return Sum(jnp.sum(weights * values), jnp.sum(weights))


def summed(of: Any, chunk: int | None, *arrays: jax.Array) -> dict[str, Sum]:
  """The sums that `of` makes of arrays [B, L, ...], of so many positions at a time, in the backward pass too."""
  if not chunk:
    return of(*arrays)
  pieces, again = in_chunks(chunk, *arrays), jax.checkpoint(of, prevent_cse=False)  # A loop separates the passes.
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of, *(one[0] for one in pieces)))
  add = lambda total, piece: (jax.tree.map(jnp.add, total, again(*piece)), None)
  return jax.lax.scan(add, zeros, pieces)[0]
