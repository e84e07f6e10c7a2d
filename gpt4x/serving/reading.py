"""Prompts, read a piece at a time."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.models.language_model import Params
from gpt4x.serving.contract import Prompted, Token
from gpt4x.serving.job import Job, likeliest
from gpt4x.serving.prefixes import Prefixes


class Reader:
  """Reads prompts from where an earlier one that begins alike has left off."""

  def __init__(self, engine: Engine, params: Params, prefixes: Prefixes):
    self._engine, self._params, self._prefixes = engine, params, prefixes
    self._score = jax.jit(self._scored)

  def pieces(self, job: Job) -> Iterator[Prefilled | None]:
    """None for each piece but the last, and then what the prompt leaves; its log-probabilities are told, if asked."""
    ids, wanted = list(job.request.ids), job.request.prompt_log_probs
    job.cached, known = (0, None) if wanted else self._prefixes.find(ids)
    row = begun = known or self._engine.begin(self._params)
    job.counts["cached_tokens"] += job.cached
    job.counts["prompt_tokens"] += len(ids)
    prompted = self._tokens(begun.logits, ids[:1], job.request.top) if wanted else []
    for count, hidden, row in self._engine.extensions(self._params, begun, ids[job.cached:]):
      place = job.cached + count
      self._prefixes.keep(ids[:place], row)
      if wanted:
        prompted += self._tokens(hidden, ids[len(prompted):place + 1], job.request.top)
      if place < len(ids):
        yield None
    if wanted:
      job.tell(Prompted(prompted))
    yield row

  def _tokens(self, states: jax.Array, ids: Sequence[int], top: int) -> list[Token]:
    """Tokens as their places' hidden states [1, L, D], or the logits [1, V] of one, have them."""
    if not ids:
      return []
    wanted = np.zeros(1 if states.ndim == 2 else states.shape[1], np.int32)
    wanted[:len(ids)] = ids
    log_probs, (best, best_ids) = jax.tree.map(np.asarray, self._score(self._params, states, wanted))
    return [Token(token, float(log_probs[i]), likeliest(best_ids[i], best[i], top)) for i, token in enumerate(ids)]

  def _scored(self, params: Params, states: jax.Array, ids: jax.Array):
    logits = states if states.ndim == 2 else self._engine.model.unembed(params, states)[0]
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, ids[:, None], 1)[:, 0], jax.lax.top_k(log_probs, self._engine.alternatives)

  def warm_up(self) -> Prefilled:
    """Compiles what prompts of any length need; returns a row."""
    row = self._engine.begin(self._params)
    self._tokens(row.logits, [1], 1)
    for length in self._engine.piece_lengths:
      (_, hidden, row), = self._engine.extensions(self._params, row, [1] * length)
      self._tokens(hidden, [1], 1)
    return row
