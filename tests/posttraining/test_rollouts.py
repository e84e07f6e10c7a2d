"""Rollouts: what a batch of answers holds, and that it follows from parameters, prompts and numbers alone."""

import json

import gin
import jax
import numpy as np
import pytest

from gpt4x.data.dataset import DatasetConfig
import gpt4x.data.local_chat  # noqa: F401  LocalChat.
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.group_relative import GroupRelative
from gpt4x.partitioning import Partitioner
from gpt4x.posttraining import rewards
from gpt4x.posttraining.rollouts import advantages, Rollouts
from gpt4x.training.gradients import microbatched
from tests.models import tiny

MODEL = LanguageModel(TransformerConfig(vocab_size=260, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32,
                                        norm_position="pre"))
PROMPTS = ["one", "another one", "x", "four"]
ROWS, GROUP, LENGTH, TOKENS = 8, 2, 24, 6


def seen(prompt, answer, reference):
  """A reward that shows what a reward function gets."""
  SEEN.append((prompt, answer, reference))
  return len(answer)


SEEN = []


@pytest.fixture(name="experiment")
def _experiment(tmp_path):
  def make(rollouts=None, task="local_prompts_bytes", **options):
    lines = [{"prompt": prompt, "completion": prompt.upper()} for prompt in PROMPTS]
    for name in ("train", "validation"):
      (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    gin.parse_config([f"LocalChat.files = '{tmp_path}/train.jsonl'",
                      f"LocalChat.validation_files = '{tmp_path}/validation.jsonl'"])
    rollouts = rollouts or Rollouts((seen,), max_tokens=TOKENS)
    dataset = DatasetConfig(task, {"targets": LENGTH}, ROWS, "lm", **{"repeat": GROUP, **options})
    return Experiment(MODEL, dataset, GroupRelative(rollouts))

  yield make
  gin.clear_config()


@pytest.fixture(scope="module", name="params")
def _params():
  return MODEL.init(jax.random.key(0))


def collect(experiment, params, seed=0, number=0, mesh=None):
  partitioner = Partitioner(**(mesh or {"data": 1, "num_devices": 1}))
  batch = next(experiment.data.train())
  with partitioner.activate():
    params = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, partitioner.place(*MODEL.declared)))
    return batch, experiment.collector(partitioner)(params, batch, seed, number)


def test_a_batch_holds_answers_in_the_places_of_references(experiment, params):
  SEEN.clear()
  data, batch = collect(experiment(), params)
  vocabulary = experiment().data.vocabulary
  assert batch["decoder_target_tokens"].shape == (ROWS, LENGTH + TOKENS)
  for row, (prompt, answer, reference) in enumerate(SEEN):
    assert reference == prompt.upper()
    begin = len(prompt)
    assert vocabulary.decode(data["decoder_target_tokens"][row].tolist()).startswith(prompt)
    assert batch["decoder_target_tokens"][row, :begin].tolist() == vocabulary.encode(prompt)
    weights, real = batch["decoder_loss_weights"][row], batch["decoder_segment_ids"][row]
    length = int(weights.sum())
    assert np.flatnonzero(weights).tolist() == list(range(begin, begin + length)) and 1 <= length <= TOKENS
    assert real.sum() == begin + length and real[:begin + length].all()
    drawn = batch["decoder_target_tokens"][row, begin:begin + length]
    assert vocabulary.decode([token for token in drawn.tolist() if token != 1]) == answer
    assert batch["ended"][row] == (1 in drawn) and (length == TOKENS or drawn[-1] == 1)
    assert batch["decoder_input_tokens"][row, 0] == 0
    assert (batch["decoder_input_tokens"][row, 1:begin + length]
            == batch["decoder_target_tokens"][row, :begin + length - 1]).all()
    assert batch["rewards"][row] == len(answer)
  prompts = [prompt for prompt, *_ in SEEN]
  assert prompts[::2] == prompts[1::2] and len({*prompts}) == 4
  np.testing.assert_allclose(batch["advantages"].reshape(-1, GROUP).sum(1), 0, atol=1e-4)


def test_the_step_gives_the_tokens_the_probabilities_they_were_drawn_with(experiment, params):
  """So the first gradient is that of the policy itself: nothing is clipped, and the ratio is 1."""
  _, batch = collect(experiment(), params)
  one = experiment().objective
  sums, _ = one(MODEL, params, {}, batch, one.initial_memory(MODEL, ROWS, 0), None)
  log_probs, _ = MODEL.log_probs(params, batch["decoder_input_tokens"], MODEL.initial_memory(ROWS, 0),
                                 batch["decoder_segment_ids"])
  own = np.take_along_axis(np.asarray(log_probs), batch["decoder_target_tokens"][..., None], -1)[..., 0]
  weights = batch["decoder_loss_weights"]
  np.testing.assert_allclose(own * weights, batch["sampled_log_probs"] * weights, atol=1e-4)
  assert sums["clipped"].value == 0


def test_answers_follow_from_seed_and_number(experiment, params):
  same = [collect(experiment(), params, number=3)[1] for _ in range(2)]
  assert all(np.array_equal(same[0][name], same[1][name]) for name in same[0])
  others = collect(experiment(), params, number=4)[1], collect(experiment(), params, seed=1, number=3)[1]
  for other in others:
    assert not np.array_equal(other["decoder_target_tokens"], same[0]["decoder_target_tokens"])


def test_eight_devices_answer_as_one_does(experiment, params):
  one, eight = (collect(experiment(), params, mesh=mesh)[1] for mesh in (None, {"data": 4, "fsdp": 2}))
  assert np.array_equal(one["decoder_target_tokens"], eight["decoder_target_tokens"])
  np.testing.assert_allclose(one["sampled_log_probs"], eight["sampled_log_probs"], atol=1e-5)


def test_microbatches_of_answers_give_one_gradient(experiment, params):
  _, batch = collect(experiment(), params)
  batch["advantages"] = np.arange(ROWS, dtype=np.float32) - 3  # Rewards alike would hide a mistake.
  one = experiment().objective
  loss = lambda params, batch, memory, rng: one(MODEL, params, {}, batch, memory, rng)
  found = [tiny.jit(lambda params, parts=parts: microbatched(parts)(
      loss, one.coefficients(MODEL), params, batch, one.initial_memory(MODEL, ROWS, 0), jax.random.key(0))[0])(params)
           for parts in (1, 4)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), *found)


def test_rows_of_padding_are_not_answered(experiment, params):
  one = experiment()
  batch = next(one.data.evaluation("validation"))
  batch = {name: value.copy() for name, value in batch.items()}
  assert not batch["decoder_segment_ids"][4:].any(), "four records in eight rows"
  found = one.collector(Partitioner(data=1, num_devices=1))(params, batch, 0, 0, group=1)
  assert not found["decoder_loss_weights"][4:].any() and not found["advantages"].any()
  assert found["decoder_loss_weights"][:4].any(1).all()


def test_advantages_are_those_of_the_paper():
  found = advantages(np.array([1, 0, 0, 1, 5, 5, 5, 5, 0, 2, 4, 6], np.float32), 4)
  deviation = np.std([0, 2, 4, 6], ddof=1)
  np.testing.assert_allclose(found[:4], np.array([0.5, -0.5, -0.5, 0.5]) / np.std([1, 0, 0, 1], ddof=1), rtol=1e-3)
  assert not found[4:8].any(), "rewards alike teach nothing"
  np.testing.assert_allclose(found[8:], np.array([-3, -1, 1, 3]) / deviation, rtol=1e-3)
  np.testing.assert_allclose(advantages(np.array([1, 3], np.float32), 2, by_deviation=False), [-1, 1])


@pytest.mark.parametrize("function, arguments, expected", [
    (rewards.distinct_letters, ("", "aAb c!", ""), 3), (rewards.exact_match, ("", " yes\n", "yes"), 1),
    (rewards.exact_match, ("", "yes.", "yes"), 0), (rewards.last_number, ("", "3 + 4 = 7", "so 7.0"), 1),
    (rewards.last_number, ("", "1,200 of them", "1200"), 1), (rewards.last_number, ("", "seven", "7"), 0),
    (rewards.last_number, ("", "7 or 8", "7"), 0), (rewards.last_number, ("", "-3", "3"), 0),
    (lambda *texts: rewards.matches(*texts, pattern=r"<think>.*</think>\d+"), ("", "<think>a\nb</think>7", ""), 1),
    (lambda *texts: rewards.length(*texts, characters=4), ("", "ab", ""), 0.5)])
def test_rewards(function, arguments, expected):
  assert function(*arguments) == expected


def test_rewards_are_summed_by_their_weights(experiment, params):
  ones = lambda *_: 1.0
  _, batch = collect(experiment(Rollouts((ones, ones), TOKENS, weights=(2.0, 0.5))), params)
  assert (batch["rewards"] == 2.5).all() and not batch["advantages"].any()


def test_a_reward_that_fails_is_told_of(experiment, params):
  for function, message in ((lambda *_: 1 / 0, "ZeroDivisionError"), (lambda *_: float("nan"), "is nan: let it")):
    with pytest.raises(UserError, match=message):
      collect(experiment(Rollouts((function,), TOKENS)), params)


def test_what_does_not_fit_is_refused(experiment):
  with pytest.raises(UserError, match="Rollouts.rewards is empty"):
    Rollouts()
  with pytest.raises(UserError, match=r"Rollouts.weights = \(1.0,\) are not as many"):
    Rollouts((seen, seen), weights=(1.0,))
  with pytest.raises(UserError, match="DatasetConfig.repeat = 1 leaves an answer none"):
    experiment(repeat=1).collector(Partitioner(data=1, num_devices=1))
