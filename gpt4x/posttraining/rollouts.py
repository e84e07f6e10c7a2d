"""Rollouts: prompts that the model answers itself, on the training mesh, and what the answers are worth."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import gin
import jax
import numpy as np

from gpt4x.data import vocabularies
from gpt4x.data.fingerprint import fingerprint
from gpt4x.errors import one_line, require, UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.partitioning import Partitioner
from gpt4x.posttraining.rewards import Reward

Batch = dict[str, np.ndarray]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Rollouts:
  """How prompts are answered, and how answers are rewarded.

  A batch has each prompt `DatasetConfig.repeat` times: its answers are a group. An answer's advantage is how far its
  reward is from the mean of its group, in standard deviations of the group (arXiv:2402.03300, section 4.1).

  Attributes:
    rewards: functions (prompt, answer, reference) -> float, which are summed (`rewards.py`). All three are texts, the
      last of them a record's own answer, or nothing.
    max_tokens: of an answer.
    temperature: what logits are divided by when an answer is drawn.
    weights: what each reward counts for; None: all the same.
    by_deviation: whether advantages are in standard deviations; if not, in the rewards' own units (arXiv:2503.20783).
  """

  rewards: Sequence[Reward] = ()
  max_tokens: int = 64
  temperature: float = 1.0
  weights: Sequence[float] | None = None
  by_deviation: bool = True

  def __post_init__(self):
    object.__setattr__(self, "rewards", tuple(self.rewards))  # A gin file may give a list.
    require(self, "at least 1", lambda tokens: tokens >= 1, "max_tokens")
    require(self, "above 0", lambda temperature: temperature > 0, "temperature")
    if not self.rewards:
      raise UserError("Rollouts.rewards is empty: name functions, such as --gin.Rollouts.rewards='(@last_number,)'")
    if self.weights is not None and len(self.weights) != len(self.rewards):
      raise UserError(f"Rollouts.weights = {self.weights!r} are not as many as the {len(self.rewards)} rewards: correct"
                      " one of them")

  def collector(self, experiment: Experiment, partitioner: Partitioner) -> "Collector":
    """What answers the batches of an experiment."""
    return Collector(self, experiment, partitioner)


class Collector:
  """Makes batches of answers from batches of prompts."""

  def __init__(self, rollouts: Rollouts, experiment: Experiment, partitioner: Partitioner):
    if jax.process_count() > 1:
      raise UserError("GroupRelative answers prompts in one process, and there are"
                      f" {jax.process_count()}: start one, with all devices of a machine")
    self._rollouts, self._group = rollouts, experiment.dataset.repeat
    if self._group < 2:
      raise UserError(f"DatasetConfig.repeat = {self._group} leaves an answer none to be compared with: set it to 8, or"
                      " to another part of BATCH_SIZE")
    self._vocabulary: Any = experiment.data.vocabulary
    model, dataset = experiment.language_model, experiment.dataset
    self._bidirectional = dataset.feature_converter == "prefix_lm"
    self._end = _end(experiment)
    self._engine = Engine(
        model, window=dataset.segment_length + rollouts.max_tokens, eos_id=self._end,
        num_ids=self._vocabulary.vocab_size, sampling=Sampling(rollouts.temperature), segment_length=128,
        chunk_length=min(32, rollouts.max_tokens), first_id=vocabularies.first_text_id(self._vocabulary),
        partitioner=partitioner, start_id=vocabularies.start_id(self._vocabulary))

  def __call__(self, params: Any, batch: Mapping[str, np.ndarray], seed: int, number: int, group: int | None = None
               ) -> Batch:
    """The batch with answers in the places of references, which depend on params, prompts, seed and number alone.

    Args:
      params: whole parameters, on the partitioner's mesh.
      batch: `decoder_*` features [B, L]; what is before the last weighted targets of a row is its prompt.
      seed, number: of the run, and of the batch: no two batches draw alike.
      group: rows, one after another, that have one prompt; None: as many as the data repeats.
    """
    group = self._group if group is None else group
    rows = [_split(tokens, weights, real) for tokens, weights, real in zip(
        batch["decoder_target_tokens"], batch["decoder_loss_weights"], batch["decoder_segment_ids"] > 0)]
    real = np.array([len(prompt) > 0 for prompt, _ in rows])
    max_tokens = self._rollouts.max_tokens
    prompts = [prompt.tolist() for prompt, _ in rows]
    pieces = list(self._engine(params, prompts, max_tokens, bidirectional=self._bidirectional,
                               seed=int(fingerprint([seed, number])[:8], 16)))
    drawn = np.concatenate([piece.tokens for piece in pieces], 1)
    log_probs = np.concatenate([piece.log_probs for piece in pieces], 1)
    ends = drawn == (-1 if self._end is None else self._end)
    lengths = np.where(ends.any(1), ends.argmax(1) + 1, drawn.shape[1]) * real
    rewards = np.array([self._reward(prompt, answer[:length], reference) if one else 0.0 for one, (prompt, reference),
                        answer, length in zip(real, rows, drawn, lengths)], np.float32)
    found = _laid_out([prompt for prompt, _ in rows], drawn, log_probs, lengths,
                      batch["decoder_target_tokens"].shape[1] + max_tokens, vocabularies.start_id(self._vocabulary))
    if self._bidirectional:
      found["decoder_causal_attention"] = (
          (np.cumsum(found["decoder_loss_weights"], 1) == 0) & (found["decoder_segment_ids"] > 0)).astype(np.int32)
      # The last input of a prompt, which predicts the first token, sees it whole, too.
      found["decoder_causal_attention"][:, 1:] |= found["decoder_causal_attention"][:, :-1]
    return found | {"rewards": rewards, "ended": (ends.any(1) * real).astype(np.float32),
                    "advantages": advantages(rewards, group, self._rollouts.by_deviation) * real.astype(np.float32)}

  def _reward(self, prompt: np.ndarray, answer: np.ndarray, reference: np.ndarray) -> float:
    texts = [self._text(ids) for ids in (prompt, answer, reference)]
    total = 0.0
    for function, weight in zip(self._rollouts.rewards, self._rollouts.weights or [1.0] * len(self._rollouts.rewards)):
      try:
        found = float(function(*texts))
      except Exception as error:  # Whatever a user's function raises.
        raise UserError(f"the reward {_name(function)} of the answer {one_line(repr(texts[1]), 80)} fails"
                        f" ({type(error).__name__} {one_line(error)}): correct the function") from error
      if not np.isfinite(found):
        raise UserError(f"the reward {_name(function)} of the answer {one_line(repr(texts[1]), 80)} is {found}: let it"
                        " be a number")
      total += weight * found
    return total

  def _text(self, ids: np.ndarray) -> str:
    return self._vocabulary.decode([token for token in ids.tolist() if token != self._end])


def advantages(rewards: np.ndarray, group: int, by_deviation: bool = True) -> np.ndarray:
  """How far each reward [B] is from the mean of its group, `group` rows one after another.

  In standard deviations, those of a sample, to which 1e-4 is added: a group whose rewards are alike teaches nothing.
  """
  groups = rewards.astype(np.float64).reshape(-1, group)
  found = groups - groups.mean(1, keepdims=True)
  if by_deviation and group > 1:
    found /= groups.std(1, ddof=1, keepdims=True) + 1e-4
  return found.ravel().astype(np.float32)


def _end(experiment: Experiment) -> int | None:
  """The id that ends an answer: what the template of the data writes behind one, or what ends a document."""
  template, vocabulary = experiment.data.chat_template, experiment.data.vocabulary
  found = None if template is None else template.stop(vocabulary)[0]
  return vocabulary.eos_id if found is None else found


def _split(tokens: np.ndarray, weights: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The prompt of a row, and behind it the reference: the last targets with weight, as far as they lie together."""
  length = int(real.sum())
  counted = np.flatnonzero(weights[:length])
  if not counted.size:
    return tokens[:length], tokens[:0]
  breaks = np.flatnonzero(np.diff(counted) > 1)
  first = counted[breaks[-1] + 1] if breaks.size else counted[0]
  return tokens[:first], tokens[first:counted[-1] + 1]


def _laid_out(prompts: Sequence[np.ndarray], drawn: np.ndarray, log_probs: np.ndarray, lengths: np.ndarray,
              length: int, start_id: int) -> Batch:
  """Prompts with answers behind them, in rows of so many positions."""
  shape = len(prompts), length
  found: Batch = {name: np.zeros(shape, np.int32) for name in (
      "decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids")}
  found |= {name: np.zeros(shape, np.float32) for name in ("decoder_loss_weights", "sampled_log_probs")}
  for row, (prompt, answer, scores, count) in enumerate(zip(prompts, drawn, log_probs, lengths)):
    begin, end = len(prompt), len(prompt) + int(count)
    found["decoder_target_tokens"][row, :end] = [*prompt, *answer[:count]]
    found["decoder_input_tokens"][row, :end] = [start_id, *prompt, *answer[:count]][:end]
    found["decoder_segment_ids"][row, :end] = 1
    found["decoder_loss_weights"][row, begin:end] = 1
    found["sampled_log_probs"][row, begin:end] = scores[:count]
  return found


def _name(function: Any) -> str:
  return getattr(function, "__name__", type(function).__name__)
