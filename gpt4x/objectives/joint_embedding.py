"""The likelihood of text, with facts held in what the model makes of descriptions."""

import dataclasses
import math
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gpt4x.errors import require, UserError
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sum, Sums
from gpt4x.objectives import next_token

# Of a row, numbered from 1; of the last two there is one, an entity that takes the place of the right one.
SEQUENCES = "head", "relation", "tail", "other tail", "other head"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class JointEmbedding:
  """Next-token likelihood, and TransE over encoded descriptions (KEPLER, arXiv:1911.06136); see `Objective`.

  A row of a graph has four texts, none of which sees another (SEQUENCES). What the model makes of one is the
  hidden state of its last token. The distance d of head + relation and tail is to be below the margin, and that with
  another tail, or another head, above: -log sigmoid(margin - d) - log sigmoid(d' - margin). A distance is the sum of
  the absolute differences over the square root of D. Rows of other parts count for their likelihood alone.

  Attributes:
    weight: what the embedding loss counts for.
    margin: in distance.
    z_loss: as of NextToken.
  """

  weight: float = 0.1
  margin: float = 4.0
  z_loss: float = 0.0

  compares: ClassVar[str] = "triples"

  def __post_init__(self):
    require(self, "a number of at least 0", lambda value: 0 <= value < math.inf, "weight", "margin", "z_loss")

  def initial_memory(self, model: LanguageModel, batch_size: int, length: int, projected: bool = False) -> Memory:
    return model.initial_memory(batch_size, length, projected)

  def __call__(self, model: LanguageModel, params: Params, frozen: Any, batch: Batch, memory: Memory,
               rng: jax.Array | None) -> tuple[Sums, Memory]:
    del frozen
    if "decoder_sequences" not in batch:
      raise UserError("JointEmbedding compares descriptions of entities, and the data has none: name a task such as"
                      " local_descriptions_bytes, or OBJECTIVE = @NextToken()")
    output, sums = next_token.forward(model, params, batch, memory, rng, self.z_loss)
    numbers = batch["decoder_sequences"]
    vectors = last_states(output.hidden, numbers, len(SEQUENCES))
    head, relation, tail, other_tail, other_head = jnp.moveaxis(vectors, 1, 0)
    has = lambda name: jnp.any(numbers == 1 + SEQUENCES.index(name), 1)
    is_tail, is_head = has("other tail")[:, None], has("other head")[:, None]
    near = distance(head + relation - tail)
    far = distance(jnp.where(is_head, other_head, head) + relation - jnp.where(is_tail, other_tail, tail))
    whole = (is_tail | is_head)[:, 0].astype(jnp.float32)  # Rows of a graph that are not cut.
    number = jnp.sum(whole)
    loss = -jax.nn.log_sigmoid(self.margin - near) - jax.nn.log_sigmoid(far - self.margin)
    return {**sums, "embedding_loss": Sum(jnp.sum(whole * loss), number),
            "embedding_accuracy": Sum(jnp.sum(whole * (near < far)), number)}, output.memory

  def coefficients(self, model: LanguageModel) -> dict[str, float]:
    named = {"loss": 1.0, "z_loss": self.z_loss, "embedding_loss": self.weight, **model.coefficients}
    return {name: value for name, value in named.items() if value}


def last_states(hidden: Float[Array, "B L D"], sequences: Int[Array, "B L"], count: int) -> Float[Array, "B count D"]:
  """Float32 states of the last tokens of the sequences 1 to `count` of each row; zeros for one that is not there."""
  behind = jnp.pad(sequences[:, 1:], ((0, 0), (0, 1)))
  last = (sequences[..., None] == jnp.arange(1, count + 1)) & (sequences != behind)[..., None]
  return jnp.einsum("bls,bld->bsd", last.astype(jnp.float32), hidden.astype(jnp.float32))


def distance(difference: Float[Array, "B D"]) -> Float[Array, " B"]:
  """Sums of absolute values over the square root of D."""
  return jnp.sum(jnp.abs(difference), -1) / math.sqrt(difference.shape[-1])
