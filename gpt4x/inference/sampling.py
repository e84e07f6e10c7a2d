"""Choosing the next token from logits."""

from collections.abc import Sequence
import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from gpt4x.errors import UserError
from gpt4x.models.shapes import Array

# Temperatures that float32 can divide by. Colder, only the likeliest has any probability left; hotter, all are alike.
_COLDEST, _HOTTEST = 1e-30, 1e30
_FIRST = 128  # So many of the likeliest are ordered at first; they mostly hold what filters keep, and all is slow.


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn; temperature 0 takes the likeliest (the first of equals)."""

  temperature: float = 1.0
  top_k: int | None = None  # Only among the k likeliest.
  top_p: float | None = None  # Only among the likeliest that together hold this probability (arXiv:1904.09751).
  min_p: float = 0.0  # Only those with at least this part of the likeliest one's probability (arXiv:2407.01082).
  presence_penalty: float = 0.0  # Taken off the logits of tokens that were drawn.
  frequency_penalty: float = 0.0  # Taken off as often as they were.
  # Divides the logits of tokens of the prompt and of drawn ones, and multiplies those below 0 (arXiv:1909.05858).
  repetition_penalty: float = 1.0
  bias: tuple[tuple[int, float], ...] = ()  # (id, what is added to its logit).

  def __post_init__(self):
    if not 0 <= self.temperature < math.inf:
      raise UserError(f"temperature = {self.temperature} must be a number of at least 0")
    if self.top_k is not None and not self.top_k >= 1:
      raise UserError(f"top_k = {self.top_k} must be at least 1")
    for name in ("top_p", "min_p"):
      value = getattr(self, name)
      if value is not None and not 0 <= value <= 1:
        raise UserError(f"{name} = {value} must be from 0 to 1")
    for name in ("presence_penalty", "frequency_penalty"):
      if not math.isfinite(getattr(self, name)):
        raise UserError(f"{name} = {getattr(self, name)} must be a number")
    if not 0 < self.repetition_penalty < math.inf:
      raise UserError(f"repetition_penalty = {self.repetition_penalty} must be a number above 0")
    if not all(math.isfinite(value) for _, value in self.bias):
      raise UserError(f"bias = {self.bias} must have numbers")

  @property
  def adjusts(self) -> bool:
    """Whether logits are changed before a token is drawn."""
    return bool(self.bias or self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

  def __call__(self, logits: jax.Array, keys: jax.Array, legal: jax.Array | None = None) -> jax.Array:
    """Draws tokens [B], as `Settings` does for rows that are all alike; without penalties and bias."""
    return Settings.of([self] * len(logits)).draw(logits, keys, legal)

  def filter(self, logits: jax.Array) -> jax.Array:
    """Sets the logits of tokens that may not be drawn to -inf."""
    return Settings.of([self] * len(logits)).filter(logits)


class Settings(flax.struct.PyTreeNode):
  """The sampling of each row, [B] each: one compiled program serves all."""

  temperature: jax.Array | np.ndarray
  top_k: jax.Array | np.ndarray  # int32; the largest where there is none.
  top_p: jax.Array | np.ndarray
  min_p: jax.Array | np.ndarray
  presence_penalty: jax.Array | np.ndarray
  frequency_penalty: jax.Array | np.ndarray
  repetition_penalty: jax.Array | np.ndarray

  @classmethod
  def of(cls, rows: Sequence[Sampling]) -> "Settings":
    floats = lambda values: np.array(list(values), np.float32)
    return cls(floats(min(one.temperature, _HOTTEST) if one.temperature >= _COLDEST else 0.0 for one in rows),
               np.array([min(one.top_k or 2**31 - 1, 2**31 - 1) for one in rows], np.int32),
               floats(1.0 if one.top_p is None else one.top_p for one in rows), floats(one.min_p for one in rows),
               floats(one.presence_penalty for one in rows), floats(one.frequency_penalty for one in rows),
               floats(one.repetition_penalty for one in rows))

  def put(self, row: jax.Array, other: "Settings") -> "Settings":
    """With the only row of others in the place of one."""
    return jax.tree.map(lambda rows, one: jnp.asarray(rows).at[row].set(one[0]), self, other)

  def draw(self, logits: Float[Array, "B V"], keys: jax.Array,
           legal: Bool[Array, "B V"] | None = None) -> Int[Array, " B"]:
    """Draws tokens from float32 logits and a key for each row, which alone decides the row's draw.

    Only `legal` ones are drawn, of those that the filters keep; where they keep none, of the legal ones that they keep
    among these alone.
    """
    possible = logits if legal is None else jnp.where(legal, logits, -jnp.inf)
    likeliest = jnp.argmax(possible, -1).astype(jnp.int32)
    cold = jnp.asarray(self.temperature) == 0

    def drawn():
      kept = self._kept(possible)
      if legal is not None:
        of_all = jnp.where(legal, self._kept(logits), -jnp.inf)
        kept = jnp.where(jnp.max(of_all, -1, keepdims=True) == -jnp.inf, kept, of_all)
      tokens = jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)
      return jnp.where(cold, likeliest, tokens)

    return jax.lax.cond(jnp.all(cold), lambda: likeliest, drawn)

  def _kept(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Tempered logits, -inf where the filters keep none."""
    logits -= jnp.max(logits, -1, keepdims=True)  # The largest stays 0, however small the temperature.
    return self.filter(logits / jnp.maximum(self.temperature, _COLDEST)[:, None])

  def filter(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Sets the logits of tokens that may not be drawn to -inf."""
    size = logits.shape[-1]
    best = jnp.max(logits, -1, keepdims=True)
    logits = jnp.where(logits - best < jnp.log(self.min_p)[:, None], -jnp.inf, logits)
    some = (jnp.asarray(self.top_k) < size) | (jnp.asarray(self.top_p) < 1)

    def lowest(ordered):
      """(the lowest logit that is kept, whether the ordered ones tell it), [B] each."""
      count = ordered.shape[-1]
      kth = jnp.take_along_axis(ordered, jnp.minimum(self.top_k, count)[:, None] - 1, 1)
      kth = jnp.where(jnp.asarray(self.top_k)[:, None] < size, kth, -jnp.inf)
      total = jax.nn.logsumexp(jnp.where(logits < kth, -jnp.inf, logits), -1, keepdims=True)
      chances = jnp.where(ordered < kth, 0.0, jnp.exp(ordered - total))
      before = jnp.cumsum(chances, -1) - chances  # Probability of the likelier ones.
      top_p = jnp.asarray(self.top_p)[:, None]
      last = jnp.min(jnp.where((before < top_p) & (ordered >= kth), ordered, jnp.inf), -1, keepdims=True)
      last = jnp.where(top_p < 1, jnp.minimum(last, ordered[:, :1]), kth)
      by_k = jnp.asarray(self.top_k) <= count
      told = ~some | by_k | ((self.top_k >= size) & (before[:, -1] >= self.top_p))
      return last, jnp.all(told)

    def filtered():
      if size <= 2 * _FIRST:
        last, _ = lowest(jnp.sort(logits, -1, descending=True))
      else:
        last, told = lowest(jax.lax.top_k(logits, _FIRST)[0])
        last = jax.lax.cond(told, lambda: last, lambda: lowest(jnp.sort(logits, -1, descending=True))[0])
      return jnp.where(some[:, None] & (logits < last), -jnp.inf, logits)

    return jax.lax.cond(jnp.any(some), filtered, lambda: logits)


class Tokens(flax.struct.PyTreeNode):
  """What penalties and biases ask of each row and id."""

  drawn: jax.Array | np.ndarray  # int32 [B, V], how often.
  prompted: jax.Array | np.ndarray  # bool [B, V], whether the prompt has it.
  bias: jax.Array | np.ndarray  # float32 [B, V].

  @classmethod
  def of(cls, rows: int, size: int) -> "Tokens":
    return cls(jnp.zeros((rows, size), jnp.int32), jnp.zeros((rows, size), bool), jnp.zeros((rows, size), jnp.float32))

  def put(self, row: jax.Array, other: "Tokens") -> "Tokens":
    """With the only row of others in the place of one."""
    return jax.tree.map(lambda rows, one: rows.at[row].set(one[0]), self, other)

  def after(self, tokens: Int[Array, " B"]) -> "Tokens":
    return self.replace(drawn=jnp.asarray(self.drawn).at[jnp.arange(len(tokens)), tokens].add(1))

  def adjusted(self, logits: Float[Array, "B V"], settings: Settings) -> Float[Array, "B V"]:
    """Logits with what the penalties take off and the biases add."""
    column = lambda values: jnp.asarray(values)[:, None]
    asked = ((settings.repetition_penalty != 1) | (settings.presence_penalty != 0) | (settings.frequency_penalty != 0)
             | jnp.any(self.bias != 0, -1))

    def changed():
      repetition = column(settings.repetition_penalty)
      seen = self.prompted | (self.drawn > 0)
      found = jnp.where(seen, jnp.where(logits > 0, logits / repetition, logits * repetition), logits)
      found -= column(settings.presence_penalty) * (self.drawn > 0) + column(settings.frequency_penalty) * self.drawn
      return jnp.where(column(asked), found + self.bias, logits)

    return jax.lax.cond(jnp.any(asked), changed, lambda: logits)


def tokens_of(prompt: Sequence[int], sampling: Sampling, size: int) -> Tokens:
  """Those of one row, [1, V]."""
  prompted, bias = np.zeros((1, size), bool), np.zeros((1, size), np.float32)
  prompted[0, list(prompt)] = True
  for token, value in sampling.bias:
    bias[0, token] += value
  return Tokens(np.zeros((1, size), np.int32), prompted, bias)
