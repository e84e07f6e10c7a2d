"""Link prediction by a language model: the rank of a triple's end among all entities, by the likelihood of its name.

Each held-out triple is asked for both of its ends. Known other answers, of any split, are left out of a ranking, and
candidates that score alike have the mean of their places: a model that says nothing ranks in the middle.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import random
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from gpt4x.data import vocabularies
from gpt4x.data.local_graph import encoded, prompt_ids
from gpt4x.data.triple_graph import Graph, Question
from gpt4x.errors import UserError
from gpt4x.evaluation import ranking
from gpt4x.experiment import Experiment
from gpt4x.inference.trie_scores import TrieScores
from gpt4x.inference.tries import Trie
from gpt4x.models.language_model import Params

if TYPE_CHECKING:
  import seqio

ALIKE = 1e-5  # Scores that differ by no more, in nats, are ties: sums of the same numbers in another order.
TOGETHER = 64  # Questions between two looks at how far it has come.


class Ranks(NamedTuple):
  """The rank of each question's answer: the mean of the places that it may have; the best of these; the worst."""

  mean: np.ndarray
  best: np.ndarray
  worst: np.ndarray


class LinkPredictor:
  """Ranks the entities of a graph as answers to questions."""

  def __init__(self, experiment: Experiment, vocabulary: "seqio.Vocabulary", graph: Graph, beam: int | None = None,
               normalized: bool = False):
    """Prepares.

    Args:
      experiment: whose model is asked, with prompts of the length that it is trained on.
      vocabulary: the model's.
      graph: what is known and asked, and in what words.
      beam: beginnings of names that are followed per question and length, at most; None: all that may matter.
      normalized: names are compared by their log-likelihood per token, not by all of it.
    """
    self._graph, self._vocabulary, self._beam, self._normalized = graph, vocabulary, beam, normalized
    self._scores = TrieScores(experiment.language_model, experiment.decoding_window(),
                              vocabularies.start_id(vocabulary))
    self._room = experiment.dataset.segment_length
    self._known_ids = range(vocabularies.first_text_id(vocabulary), experiment.language_model.config.vocab_size)
    self._number = {entity: number for number, entity in enumerate(graph.entities)}
    if experiment.dataset.feature_converter == "prefix_lm":
      raise UserError("the model reads prompts in both directions (DatasetConfig.feature_converter = 'prefix_lm'), and"
                      " links are asked from left to right: name a run of another feature converter, such as 'lm'")

  @property
  def nodes(self) -> int:
    """Tokens of names that were run so far."""
    return self._scores.nodes

  def prompt(self, question: Question) -> list[int]:
    """The ids of a question: as in training, with as much of its context as fits beside the longest name."""
    room = self._room - self._trie(*self._phrase(question)).depth_limit
    ids = prompt_ids(self._graph.text(question), self._vocabulary, room)
    if wrong := [one for one in ids if one not in self._known_ids]:
      raise UserError(f"the question about {question.entity!r} has the token {wrong[0]}, and the model knows"
                      f" {self._known_ids.start} to {self._known_ids.stop - 1}: name a model with another vocabulary")
    return ids

  def ranks(self, params: Params, questions: Sequence[Question],
            between: Callable[[int], None] = lambda _: None) -> Ranks:
    """The ranks of the questions' answers; `between` is told how many are done."""
    found, done = np.zeros((3, len(questions))), 0
    for start in range(0, len(questions), TOGETHER):
      part = questions[start:start + TOGETHER]
      for phrase in dict.fromkeys(map(self._phrase, part)):
        places = [i for i, one in enumerate(part) if self._phrase(one) == phrase]
        some = [part[i] for i in places]
        scores = self._scores(params, [self.prompt(one) for one in some], self._trie(*phrase),
                              [self._number[one.answer] for one in some], self._beam, self._normalized)
        for i, question, row in zip(places, some, scores):
          found[:, start + i] = self._rank(row, question)
      done += len(part)
      between(done)
    return Ranks(*found)

  def scores(self, params: Params, question: Question, candidates: Sequence[str]) -> np.ndarray:
    """float64 [n]: the log-likelihood of each candidate's name as the answer, all of them whole."""
    trie = Trie([self._answer(question, one) for one in candidates])
    return self._scores(params, [self.prompt(question)], trie, normalized=self._normalized)[0]

  def _rank(self, row: np.ndarray, question: Question) -> tuple[float, float, float]:
    """The mean, best and worst rank of the answer, where some scores are not known (nan)."""
    number = self._number[question.answer]
    known = [self._number[one] for one in self._graph.answers[question[:3]] if one != question.answer]
    unknown = np.isnan(row) & ~np.isnan(row[number])
    open_ = int(unknown.sum() - unknown[known].sum())
    rank = ranking.rank_of(np.where(unknown, -np.inf, row), number, known, ALIKE)
    return rank + open_ / 2, rank, rank + open_

  def _phrase(self, question: Question) -> tuple[str, str]:
    """What stands before and behind the answer's name."""
    before, after = self._graph.phrases(question.relation, question.backwards).answer("\0").split("\0")
    return before, after

  @functools.cache  # noqa: B019  As long-lived as the predictor.
  def _trie(self, before: str, after: str) -> Trie:
    return Trie([self._ids(f"{before}{self._graph.name(one)}{after}") for one in self._graph.entities])

  def _answer(self, question: Question, entity: str) -> list[int]:
    return self._ids(self._graph.phrases(question.relation, question.backwards).answer(self._graph.name(entity)))

  def _ids(self, answer: str) -> list[int]:
    end = self._vocabulary.eos_id
    return encoded(answer, self._vocabulary) + ([] if end is None else [end])


def sampled(graph: Graph, split: str, max_triples: int | None, seed: int = 0) -> list[Question]:
  """The questions of a split, or of so many of its triples, which the seed chooses."""
  triples = list(graph.triples[split])
  if not triples:
    parameter = "test_files" if split == "test" else "validation_files"
    raise UserError(f"there are no triples for the split {split}: set LocalGraph.{parameter}, or name another --split")
  if max_triples is not None and max_triples < len(triples):
    triples = random.Random(seed).sample(triples, max_triples)
  part = Graph({**graph.triples, split: triples}, graph.names, graph.phrases)
  return list(part.questions(split))


def measures(graph: Graph, questions: Sequence[Question], ranks: Ranks) -> dict[str, Any]:
  """What is said of ranks: of all, of each direction, and of questions whose reverse is not trained on.

  Where a beam leaves places open, `mrr_at_least` and `mrr_at_most` say between what the exact figure lies.
  """
  backwards = np.array([one.backwards for one in questions], bool)
  reverse = np.array([graph.reverse_is_known(one) for one in questions], bool)
  parts: Mapping[str, np.ndarray] = {
      "": np.ones(len(questions), bool), "tail_": ~backwards, "head_": backwards, "no_reverse_": ~reverse}
  found: dict[str, Any] = {"questions": len(questions), "candidates": len(graph.entities)}
  for prefix, which in parts.items():
    if prefix:
      found[f"{prefix}questions"] = int(which.sum())
    found |= {f"{prefix}{name}": value for name, value in ranking.summary(ranks.mean[which]).items()}
    if np.any(ranks.best < ranks.worst) and which.any():
      found[f"{prefix}mrr_at_least"] = ranking.summary(ranks.worst[which])["mrr"]
      found[f"{prefix}mrr_at_most"] = ranking.summary(ranks.best[which])["mrr"]
  return found
