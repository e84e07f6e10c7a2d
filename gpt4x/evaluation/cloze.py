"""Cloze probes: how well a model fills in a held-out triple's end, of all that its relation has for an answer."""

from collections.abc import Sequence

import numpy as np

from gpt4x.data.triple_graph import Graph, Question, SPLITS
from gpt4x.evaluation import ranking
from gpt4x.evaluation.link_prediction import ALIKE, LinkPredictor
from gpt4x.models.language_model import Params


def answers_of(graph: Graph) -> dict[tuple[str, bool], list[str]]:
  """The distinct answers of each (relation, backwards), in order of their first."""
  found = dict[tuple[str, bool], dict[str, None]]()
  for split in SPLITS:
    for question in graph.questions(split):
      found.setdefault((question.relation, question.backwards), {})[question.answer] = None
  return {key: list(some) for key, some in found.items()}


def cloze(predictor: LinkPredictor, params: Params, graph: Graph, questions: Sequence[Question],
          max_answers: int | None = None, seed: int = 0) -> dict[str, float]:
  """Accuracy, mean reciprocal rank and mean log-likelihood of the questions' answers; see `ranking.py` for ties.

  Args:
    predictor: what scores names.
    params: its model's parameters.
    graph: what the questions are of; other known answers do not count as wrong ones.
    questions: such as `link_prediction.sampled` gives.
    max_answers: of a relation, the seed chooses so many wrong ones for each question; None: all.
    seed: of that choice.
  """
  candidates, rng = answers_of(graph), np.random.default_rng(seed)
  ranks, log_likelihoods = list[float](), list[float]()
  for question in questions:
    known = graph.answers[question[:3]]
    wrong = [one for one in candidates[question.relation, question.backwards] if one not in known]
    if max_answers is not None and len(wrong) > max_answers:
      wrong = [wrong[i] for i in sorted(rng.choice(len(wrong), max_answers, replace=False))]
    scores = predictor.scores(params, question, [question.answer, *wrong])
    ranks.append(ranking.rank_of(scores, 0, tolerance=ALIKE))
    log_likelihoods.append(float(scores[0]))
  found = ranking.summary(ranks)
  return {"accuracy": float(np.mean(np.array(ranks) == 1)), "mrr": found["mrr"],
          "log_likelihood": float(np.mean(log_likelihoods)), "questions": float(len(ranks))}
