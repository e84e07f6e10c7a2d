"""Log-likelihoods of many candidates behind each of several prompts: what they share is computed once.

A prompt is prefilled once. Then each node of the candidates' trie is one token behind its parent's memory, whichever
question it is of: rows of a batch are nodes. Where nothing branches any more, the rest is one segment.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

from gpt4x.inference.engine import Engine
from gpt4x.inference.tries import ranges, Trie
from gpt4x.models.language_model import LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.shapes import Array

_QUESTIONS, _FEWEST = 32, 32  # Prompts that are run together, and rows that are compiled for: these, times powers of 4.
_SLACK = {"float32": 0.01}  # Nats by which one sum may differ from itself in a batch of another shape; else 0.5.


class _Nodes(NamedTuple):
  """Nodes that are still to be run: arrays [n], and the memory behind their parents."""

  question: np.ndarray
  node: np.ndarray
  total: np.ndarray  # The log-likelihood up to the node's token, this included.
  row: np.ndarray  # Of the memory.
  memory: Memory

  def take(self, places: Any) -> "_Nodes":
    return self._replace(question=self.question[places], node=self.node[places], total=self.total[places],
                         row=self.row[places])


class _Batch(NamedTuple):
  """What belongs to the questions of one batch."""

  trie: Trie
  scores: np.ndarray  # [Q, n] by candidate; those without any yet -inf, which is what is below a limit.
  limits: np.ndarray  # [Q], what a candidate has to reach, per token if `normalized`.
  answers: np.ndarray | None  # [Q], candidates that are scored in any case.
  beam: int | None
  normalized: bool


class TrieScores:
  """Scores candidates by a model; each is what `log_probs` of prompt and candidate sums to, to rounding."""

  def __init__(self, model: LanguageModel, window: int, start_id: int = 0, memory_bytes: int = 1 << 30):
    """Prepares.

    Args:
      model: the language model.
      window: positions that each token sees, W, itself included.
      start_id: the input before a prompt's first token.
      memory_bytes: what the memories of the nodes under way may take.
    """
    self._model, self._window, self._start_id, self._budget = model, window, start_id, memory_bytes
    self._engines = dict[int, Engine]()
    self.nodes = 0  # Tokens that were run behind prompts, padding left out.

  def __call__(self, params: Params, prompts: Sequence[Sequence[int]], trie: Trie,
               answers: Sequence[int] | None = None, beam: int | None = None,
               normalized: bool = False) -> np.ndarray:
    """float64 [Q, n]: the score of each of n candidates behind each of Q prompts.

    Args:
      params: the model's parameters.
      prompts: token ids, without the start.
      trie: of the candidates.
      answers: the candidate of each prompt that others are to be compared with. Those that are found to score lower
        before all of their tokens are run then have -inf. None: all have their score.
      beam: beginnings of candidates that are followed per question and length, the likeliest; what is left out though
        it may score higher than the answer has nan. None: all are followed.
      normalized: a score is per token.
    """
    found = np.full((len(prompts), len(trie.order)), -np.inf)
    memories = np.array([self._memory(len(prompt) + 1 + trie.depth_limit) for prompt in prompts], int)
    for length in np.unique(memories):
      places = np.flatnonzero(memories == length)
      rows = self._rows(int(length), trie.depth_limit if beam is None else 1)  # With a beam, level by level.
      together = _QUESTIONS if beam is None else max(1, min(_QUESTIONS, rows // (beam + 1)))
      for start in range(0, len(places), together):
        some = places[start:start + together]
        # What fills up the batch repeats its last question.
        filled = np.append(some, np.repeat(some[-1:], _power(len(some)) - len(some)))
        batch = _Batch(trie, np.full((len(some), found.shape[1]), -np.inf), np.full(len(some), -np.inf),
                       None if answers is None else np.array([answers[i] for i in some]), beam, normalized)
        self._score(params, [prompts[int(i)] for i in filled], batch, int(length), rows)
        found[some] = batch.scores
    return found / trie.lengths if normalized else found

  def _memory(self, positions: int) -> int:
    """M: few lengths, none below what is seen; exactly W where a model attends to an empty memory."""
    return self._window if self._model.config.empty_memory == "zeros" else min(-(-positions // 32) * 32, self._window)

  def _rows(self, length: int, levels: int) -> int:
    """Nodes that are run at once, so that the memories of a batch at each of so many levels fit."""
    shapes = jax.eval_shape(lambda: self._model.initial_memory(1, length, projected=True))
    row = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    rows = _FEWEST
    while rows < 2048 and 4 * rows * row * (levels + 2) <= self._budget:
      rows *= 4
    return rows

  def _score(self, params: Params, prompts: Sequence[Sequence[int]], batch: _Batch, length: int, rows: int) -> None:
    """Fills in the scores of a batch of questions."""
    engine = self._engines.setdefault(length, Engine(self._model, length, None, start_id=self._start_id))
    prefilled = engine.prefill(params, prompts)
    questions, first = np.arange(len(batch.scores)), _log_softmax(prefilled.logits)
    if batch.answers is not None:
      batch.limits[:] = self._answers(params, prefilled.memory, first, batch)
    root = _Nodes(questions, np.zeros(len(questions), int), np.zeros(len(questions)), questions, prefilled.memory)
    waiting = self._follow(params, root, first, prefilled.memory, batch, rows)
    while waiting:  # Depth first: few memories are held at a time.
      nodes = waiting.pop()
      self.nodes += len(nodes.node)
      rows_and_tokens = _filled(nodes.row, batch.trie.token[nodes.node])
      log_probs, memory = _run_nodes(self._model, length, params, nodes.memory, *rows_and_tokens)
      waiting += self._follow(params, nodes._replace(row=np.arange(len(nodes.node))), log_probs, memory, batch, rows)

  def _answers(self, params: Params, memory: Memory, first: jax.Array, batch: _Batch) -> np.ndarray:
    """[Q]: a little less than what each question's answer scores."""
    assert batch.answers is not None
    sequences = [batch.trie.sequence(one) for one in batch.answers]
    questions = np.arange(len(sequences))
    total = np.asarray(first)[questions, [one[0] for one in sequences]].astype(float)
    total += self._rest(params, memory, questions, sequences)
    dtype = str(jnp.dtype(self._model.config.compute_dtype))
    return (total - _SLACK.get(dtype, 0.5)) / (batch.trie.lengths[batch.answers] if batch.normalized else 1)

  def _follow(self, params: Params, parents: _Nodes, log_probs: jax.Array, memory: Memory, batch: _Batch,
              rows: int) -> list[_Nodes]:
    """Takes what a step says of its nodes' children: scores those that end, and returns those that are to be run."""
    trie = batch.trie
    node, parent = ranges(trie.first_child[parents.node], trie.last_child[parents.node])
    if not len(node):
      return []
    count = _power(len(node))
    picked = _pick(log_probs, *(np.pad(x, (0, count - len(node))) for x in (
        parents.row[parent].astype(np.int32), trie.token[node].astype(np.int32))))
    nodes = _Nodes(parents.question[parent], node, parents.total[parent] + np.asarray(picked)[:len(node)].astype(float),
                   parents.row[parent], memory)
    self._settle(nodes, trie.start[node], trie.start[node] + trie.ended[node], nodes.total, batch)
    further = trie.stop[node] - trie.start[node] > trie.ended[node]
    if batch.answers is not None:
      bound = nodes.total / (trie.longest[node] if batch.normalized else 1)  # What no candidate below can exceed.
      needed = trie.above(node, batch.answers[nodes.question])
      further &= needed | (bound >= batch.limits[nodes.question])
      nodes = self._likeliest(nodes.take(further), bound[further], needed[further], batch)
    else:
      nodes = nodes.take(further)
    single = trie.single[nodes.node]
    self._finish(params, nodes.take(single), batch, rows)
    nodes = nodes.take(~single)
    size = rows if batch.beam is None else max(len(nodes.node), 1)
    return [nodes.take(slice(start, start + size)) for start in range(0, len(nodes.node), size)]

  def _likeliest(self, nodes: _Nodes, bound: np.ndarray, needed: np.ndarray, batch: _Batch) -> _Nodes:
    """The nodes that are in the beam of their question; candidates of others have no score."""
    if batch.beam is None:
      return nodes
    order = np.lexsort([-np.where(needed, np.inf, bound), nodes.question])
    question = nodes.question[order]
    place = np.arange(len(order)) - np.searchsorted(question, question)
    dropped = nodes.take(order[place > batch.beam])  # The answer's is one more.
    trie = batch.trie
    self._settle(dropped, trie.start[dropped.node] + trie.ended[dropped.node], trie.stop[dropped.node],
                 np.full(len(dropped.node), np.nan), batch)
    return nodes.take(order[place <= batch.beam])

  def _finish(self, params: Params, nodes: _Nodes, batch: _Batch, rows: int) -> None:
    """Scores the candidates of nodes behind which nothing branches."""
    trie = batch.trie
    sequences = [np.append(trie.token[node], trie.tail(node)) for node in nodes.node]
    lengths = np.array([len(one) for one in sequences], int)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
      tokens = _power(int(lengths[order[start]]) - 1)  # The shortest that is left says how many may be run at once.
      some = order[start:start + max(_FEWEST, rows // tokens)]
      some = some[lengths[some] - 1 <= tokens]
      part = nodes.take(some)
      total = part.total + self._rest(params, nodes.memory, part.row, [sequences[i] for i in some])
      self._settle(part, trie.start[part.node], trie.stop[part.node], total, batch)
      start += len(some)

  def _rest(self, params: Params, memory: Memory, rows: np.ndarray, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """The log-likelihood of what follows the first token of each sequence, behind rows of a memory."""
    self.nodes += sum(map(len, sequences)) - len(sequences)
    length = _power(max(1, max(map(len, sequences)) - 1))
    count = len(_filled(rows)[0])
    tokens, targets, real = (np.zeros((count, length), np.int32) for _ in range(3))
    for i, one in enumerate(sequences):
      tokens[i, :len(one) - 1], targets[i, :len(one) - 1], real[i, :len(one) - 1] = one[:-1], one[1:], 1
    found = _run_tails(self._model, memory.length, params, memory, *_filled(rows), tokens, targets, real)
    return np.asarray(found)[:len(sequences)].astype(float)

  @staticmethod
  def _settle(nodes: _Nodes, starts: np.ndarray, stops: np.ndarray, values: np.ndarray, batch: _Batch) -> None:
    """Gives candidates of ranges their value."""
    places, of = ranges(starts, stops)
    batch.scores[nodes.question[of], batch.trie.order[places]] = values[of]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_nodes(model: LanguageModel, window: int, params: Params, memory: Memory, rows: Int[Array, " B"],
               tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], Memory]:
  """The log-probabilities behind one more token of rows of a memory, and these rows with it."""
  logits, memory = model.logits(params, tokens[:, None], memory.take(rows), window=window)
  return jax.nn.log_softmax(logits[:, 0]), memory


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_tails(model: LanguageModel, window: int, params: Params, memory: Memory, rows: Int[Array, " B"],
               tokens: Int[Array, "B L"], targets: Int[Array, "B L"], real: Int[Array, "B L"]) -> Float[Array, " B"]:
  """The log-likelihood of targets behind rows of a memory."""
  hidden = model.forward(params, tokens, memory.take(rows), real, window=window).hidden
  return jnp.sum(model.token_log_probs(params, hidden, targets) * real, -1)


@jax.jit
def _log_softmax(logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
  return jax.nn.log_softmax(logits)


@jax.jit
def _pick(log_probs: Float[Array, "B V"], rows: Int[Array, " N"], tokens: Int[Array, " N"]) -> Float[Array, " N"]:
  return log_probs[rows, tokens]


def _filled(*arrays: np.ndarray) -> list[np.ndarray]:
  """Arrays [n] with zeros behind, so that few lengths are compiled for."""
  count = _FEWEST
  while count < len(arrays[0]):
    count *= 4
  return [np.pad(x.astype(np.int32), (0, count - len(x))) for x in arrays]


def _power(count: int) -> int:
  """The next power of two."""
  return 1 << max(count - 1, 0).bit_length()
