"""Ranks of entities by a model, against one that scores every name by itself; ties, beams, and what is left out."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import seqio

from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.triple_files import Triple
from gpt4x.data.triple_graph import Graph, unique_names
from gpt4x.data.triple_phrases import Phrases
from gpt4x.errors import UserError
from gpt4x.evaluation import cloze, link_prediction, ranking
from gpt4x.evaluation.link_prediction import LinkPredictor
from gpt4x.experiment import Experiment
from gpt4x.inference.trie_scores import TrieScores
from gpt4x.inference.tries import Trie
from tests.models import tiny

BYTES = seqio.ByteVocabulary()
NAMES = ["a", "ab", "abc", "b", "ba", "bcd", "bce", "c", "long name", "other"]
TRIPLES = {
    "train": [Triple("a", "r", "ab"), Triple("ab", "r", "a"), Triple("b", "s", "c"), Triple("bcd", "r", "bce"),
              Triple("ba", "s", "long name"), Triple("other", "r", "abc")],
    "validation": [Triple("abc", "r", "other"), Triple("a", "r", "bcd")],
    "test": [Triple("c", "s", "b"), Triple("a", "r", "c")]}
GRAPH = Graph(TRIPLES, {}, Phrases({}), neighbours=2)


def experiment_of(model, length=48):
  return Experiment(model.lm, DatasetConfig("local_triple_questions_bytes", {"targets": length}, 2, "lm"))


@functools.cache
def with_bytes(style="paper"):
  return tiny.make(**{**tiny.STYLES[style], "vocab_size": 260})


@functools.cache
def scorer_of(style="paper", memory_bytes=1 << 30):
  return TrieScores(with_bytes(style).lm, 64, memory_bytes=memory_bytes)


@functools.cache
def predictor_of(normalized=False):
  """One of the model of all tests of ranks."""
  return LinkPredictor(experiment_of(with_bytes()), BYTES, GRAPH, normalized=normalized)


def slow_score(model, prompt, answer, start=0):
  """The log-likelihood of an answer, by one forward pass over the whole text."""
  tokens = np.array([[start, *prompt, *answer]], np.int32)
  padded = np.pad(tokens, ((0, 0), (0, 64 - tokens.shape[1])))  # What comes later is not seen.
  log_probs = np.asarray(model.log_probs(model.params, padded)[0])[0]
  places = np.arange(len(prompt), len(prompt) + len(answer))
  return float(log_probs[places, answer].sum())


def slow_rank(scores, answer, known):
  """By comparing one with each other."""
  better = sum(score > scores[answer] + 1e-4 for i, score in enumerate(scores) if i not in known and i != answer)
  alike = sum(abs(score - scores[answer]) <= 1e-4 for i, score in enumerate(scores) if i not in known and i != answer)
  return 1 + better + alike / 2


@pytest.mark.parametrize("style", ["paper", "modern"])
@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
def test_a_trie_scores_as_each_name_by_itself(style, memory_bytes):
  model, rng = with_bytes(style), np.random.default_rng(0)
  prompts = [rng.integers(3, 259, length).tolist() for length in (1, 9, 20)]
  names = [[*BYTES.encode(name), 1] for name in [*NAMES, "abc"]]  # The same twice.
  scorer = scorer_of(style, memory_bytes)
  found = scorer(model.params, prompts, Trie(names))
  expected = [[slow_score(model, prompt, name) for name in names] for prompt in prompts]
  np.testing.assert_allclose(found, expected, atol=2e-4)
  normalized = scorer(model.params, prompts, Trie(names), normalized=True)
  np.testing.assert_allclose(normalized, np.array(expected) / [len(name) for name in names], atol=2e-4)


def test_what_is_below_the_answer_need_not_be_run():
  """What is proven to be lower has no score; all that is higher has its own, whatever else is asked."""
  model, rng = with_bytes(), np.random.default_rng(1)
  names = [[*one, 1] for one in itertools.product(range(3, 8), repeat=4)]
  trie, prompts = Trie(names), [rng.integers(3, 259, 8).tolist() for _ in range(6)]
  for normalized in (False, True):
    scorer = scorer_of()
    before = scorer.nodes
    every = scorer(model.params, prompts, trie, normalized=normalized)
    whole = scorer.nodes - before
    order = np.argsort(-every, 1)
    for place in (0, 5, len(names) - 1):
      answers = order[:, place]
      before = scorer.nodes
      found = scorer(model.params, prompts, trie, answers.tolist(), normalized=normalized)
      own = np.take_along_axis(every, answers[:, None], 1)
      needed = every >= own - 1e-5
      np.testing.assert_allclose(found[needed], every[needed], atol=1e-4)
      assert not np.isnan(found).any()
      assert (found[~needed] <= every[~needed] + 1e-4).all()
      assert scorer.nodes - before < whole or place > 5


def test_a_beam_bounds_the_rank_of_the_exact_search():
  model, rng = with_bytes(), np.random.default_rng(2)
  names = [[*one, 1] for one in itertools.product(range(3, 9), repeat=3)]
  trie, prompts = Trie(names), [rng.integers(3, 259, 8).tolist() for _ in range(4)]
  every = scorer_of()(model.params, prompts, trie)
  answers = np.argsort(-every, 1)[:, 70]
  for beam in (1, 4, 1000):
    found = scorer_of()(model.params, prompts, trie, answers.tolist(), beam)
    for row, exact, answer in zip(found, every, answers):
      unknown = int(np.isnan(row).sum())
      best = 1 + int(np.nansum(row > row[answer]))
      assert best <= ranking.rank_of(exact, answer) == 71 <= best + unknown
      assert (unknown == 0) == (beam == 1000)
      seen = np.isfinite(row)
      np.testing.assert_allclose(row[seen], exact[seen], atol=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_ranks_are_those_of_a_slow_search(normalized):
  model, predictor = with_bytes(), predictor_of(normalized)
  questions = [*GRAPH.questions("test"), *GRAPH.questions("validation")]
  found = predictor.ranks(model.params, questions)
  for question, rank, best, worst in zip(questions, *found):
    text = GRAPH.text(question)
    prompt = BYTES.encode("".join(f"{line}\n" for line in text.context) + text.prompt)
    assert predictor.prompt(question) == list(prompt)
    answers = [[*BYTES.encode(f" {name}"), 1] for name in GRAPH.entities]
    scores = [slow_score(model, prompt, answer) / (len(answer) if normalized else 1) for answer in answers]
    right = {triple[0 if question.backwards else 2] for split in TRIPLES for triple in TRIPLES[split]
             if triple.relation == question.relation and triple[2 if question.backwards else 0] == question.entity}
    known = {GRAPH.entities.index(one) for one in right - {question.answer}}
    assert rank == best == worst == slow_rank(scores, GRAPH.entities.index(question.answer), known)


def test_a_constant_scorer_ranks_in_the_middle():
  """Its mean reciprocal rank is that of mean ranks, not 1 (ConvKB#5, kge#221)."""
  model = with_bytes()
  import jax
  zeros = jax.tree.map(np.zeros_like, model.params)
  entities = [f"{i:02d}" for i in range(20)]  # As long as each other.
  graph = Graph({"train": [Triple(a, "r", b) for a, b in itertools.pairwise(entities)],
                 "validation": [Triple("00", "r", "05"), Triple("03", "r", "00")], "test": []}, {}, Phrases({}))
  questions = list(graph.questions("validation"))
  ranks = LinkPredictor(experiment_of(model), BYTES, graph).ranks(zeros, questions)
  candidates = [20 - (len(graph.answers[question[:3]]) - 1) for question in questions]
  assert ranks.mean.tolist() == [(1 + count) / 2 for count in candidates]
  found = link_prediction.measures(graph, questions, ranks)
  assert found["mrr"] == pytest.approx(np.mean([2 / (1 + count) for count in candidates])) and found["hits@1"] == 0


def test_measures_tell_apart_what_has_a_reverse():
  questions = list(GRAPH.questions("validation"))  # other r abc is known; bcd r a is not.
  ranks = link_prediction.Ranks(*np.array([[1.0, 2.0, 4.0, 10.0]] * 3))
  found = link_prediction.measures(GRAPH, questions, ranks)
  assert found["questions"] == 4 and found["candidates"] == len(GRAPH.entities) == len(NAMES)
  assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4)
  assert found["mrr_error"] == pytest.approx(np.std([1, 1 / 2, 1 / 4, 1 / 10], ddof=1) / 2)
  assert found["no_reverse_questions"] == 2 and found["no_reverse_mrr"] == pytest.approx((1 / 4 + 1 / 10) / 2)
  assert found["tail_mrr"] == pytest.approx((1 + 1 / 4) / 2) and found["head_mrr"] == pytest.approx(0.6 / 2)
  assert (found["hits@1"], found["hits@3"], found["hits@10"]) == (0.25, 0.5, 1.0)
  assert "mrr_at_least" not in found
  wide = link_prediction.measures(GRAPH, questions, ranks._replace(worst=np.array([1.0, 4.0, 4.0, 20.0])))
  assert wide["mrr_at_least"] < wide["mrr"] == wide["mrr_at_most"]


@pytest.mark.parametrize("scores, answer, known, rank", [
    ([3, 2, 1], 0, (), 1), ([3, 2, 1], 2, (), 3), ([3, 2, 1], 2, (0,), 2), ([1, 1, 1], 1, (), 2),
    ([1, 1, 1, 1], 0, (3,), 2), ([2, 1, 1], 1, (), 2.5), ([np.nan] * 5, 2, (), 3), ([-np.inf, -np.inf, 1], 0, (), 2.5)])
def test_ties_have_their_mean_rank(scores, answer, known, rank):
  assert ranking.rank_of(np.array(scores, float), answer, known) == rank


def test_a_context_is_cut_to_what_the_model_is_trained_on():
  model = with_bytes()
  question = next(GRAPH.questions("validation"))
  text = GRAPH.text(question)
  longest = max(len(BYTES.encode(f" {name}")) for name in GRAPH.entities) + 1
  for length in (20, 24, 32, 48):
    ids = LinkPredictor(experiment_of(model, length), BYTES, GRAPH).prompt(question)
    assert len(ids) + longest <= max(length, len(BYTES.encode(text.prompt)) + longest)
    assert BYTES.decode(ids).endswith(text.prompt)


def test_a_cloze_is_among_the_answers_of_its_relation():
  model, predictor = with_bytes(), predictor_of()
  answers = cloze.answers_of(GRAPH)
  assert answers["s", False] == ["c", "long name", "b"] and answers["s", True] == ["b", "ba", "c"]
  questions, ranks, likelihoods = list(GRAPH.questions("test")), [], []
  for question in questions:
    prompt = predictor.prompt(question)
    wrong = [one for one in answers[question.relation, question.backwards]
             if one not in GRAPH.answers[question[:3]]]
    own, *others = [slow_score(model, prompt, [*BYTES.encode(f" {one}"), 1]) for one in [question.answer, *wrong]]
    ranks.append(1 + sum(score > own for score in others))
    likelihoods.append(own)
  found = cloze.cloze(predictor, model.params, GRAPH, questions)
  assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
  assert found["accuracy"] == np.mean(np.array(ranks) == 1)
  assert found["log_likelihood"] == pytest.approx(np.mean(likelihoods), abs=1e-3)
  few = cloze.cloze(predictor, model.params, GRAPH, questions, max_answers=1)
  assert few["mrr"] >= 0.5 and few == cloze.cloze(predictor, model.params, GRAPH, questions, max_answers=1)


def test_a_sample_is_the_seeds():
  graph = dataclasses.replace(GRAPH, triples={**TRIPLES, "test": [Triple("a", "r", str(i)) for i in range(50)]})
  found = link_prediction.sampled(graph, "test", 5, seed=1)
  assert len(found) == 10 and found == link_prediction.sampled(graph, "test", 5, seed=1)
  assert found != link_prediction.sampled(graph, "test", 5, seed=2)
  assert len(link_prediction.sampled(graph, "test", 500)) == 100
  with pytest.raises(UserError, match="no triples for the split test: set LocalGraph.test_files"):
    link_prediction.sampled(dataclasses.replace(graph, triples={**TRIPLES, "test": []}), "test", None)


def test_names_are_told_apart():
  names = {"Q1": "Paris", "Q2": "Paris", "Q3": "Paris", "Q4": "Rome", "Q5": "Oslo", "Q6": "Oslo"}
  found = unique_names([*names, "Q7"], names, {"Q1": "city", "Q2": "town", "Q3": "town", "Q4": "city"})
  assert found == {"Q1": "Paris (city)", "Q2": "Paris (Q2)", "Q3": "Paris (Q3)", "Q4": "Rome", "Q5": "Oslo (Q5)",
                   "Q6": "Oslo (Q6)", "Q7": "Q7"}
