"""A task's own seqio metrics, computed from what the model writes or how it scores the targets."""

from collections.abc import Callable, Iterator
import contextlib
import numbers
from typing import Any, TYPE_CHECKING
import uuid

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from gpt4x.data import vocabularies
from gpt4x.data.task_examples import errors_of
from gpt4x.evaluation import shuffled_media
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.media.grammar import Grammar
from gpt4x.models.language_model import Batch, LanguageModel

if TYPE_CHECKING:
  from gpt4x.evaluation.retrieved_documents import Retrieved


class TaskMetrics:
  """Runs `seqio.Evaluator` on the tasks of an experiment that have inputs and metrics; without any it does nothing.

  Predictions are decoded greedily from `inputs`; a score is the log-likelihood of `targets` given `inputs`. Metrics
  that are no single number, such as texts, are left out. The first of several processes works alone, so all parameters
  have to fit on its first device.
  """

  def __init__(self, experiment: Experiment, split: str, shuffle_media: bool = False,
               retrieved: "Retrieved | None" = None):
    """With `shuffle_media`, the inputs of the examples have each other's media; with `retrieved`, documents ahead."""
    self._evaluator, self._dataset = None, experiment.dataset
    self._arranged = lambda rows: shuffled_media.shuffled(rows, experiment.data)[0] if shuffle_media else rows
    if retrieved:
      self._arranged = retrieved.rows
    dataset = self._dataset
    if dataset.feature_converter not in ("prefix_lm", "causal_lm") or not experiment.data.has_metrics:
      return
    import seqio
    self._provider, self._split = experiment.data.provider, split
    with errors_of(self._provider, split, all_errors=True), _registered(self._provider) as name:
      self._evaluator = seqio.Evaluator(
          name, seqio.PrefixLMFeatureConverter(pack=False), split,
          sequence_length=dict(dataset.task_feature_lengths), async_compute_metrics=False)
    model, vocabulary = experiment.language_model, experiment.data.vocabulary
    layout = getattr(vocabulary, "layout", None)  # With media, what is written is a stream that can be read.
    self._engine = Engine(
        model, window=dataset.segment_length, eos_id=vocabulary.eos_id, num_ids=vocabulary.vocab_size,
        sampling=Sampling(temperature=0.0), segment_length=16,
        grammar=Grammar(layout, frozenset(layout.media)) if layout else None,
        start_id=vocabularies.start_id(vocabulary))
    self._eos_id = vocabulary.eos_id
    self._both_ways = dataset.feature_converter == "prefix_lm"  # Whether inputs see each other in both directions.
    self._score = jax.jit(lambda params, batch: _scores(model, params, batch, self._both_ways))

  def __call__(self, params: Any, between_batches: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Metrics by name, each `task/metric`. `between_batches` is called where there is one process."""
    if self._evaluator is None or not self._evaluator.eval_tasks:
      return {}
    if jax.process_count() > 1:
      params = multihost_utils.process_allgather(params, tiled=True)
      if jax.process_index():
        return {}
    if jax.process_count() > 1:  # The others do not wait for it here.
      between_batches = lambda: None
    with errors_of(self._provider, self._split, all_errors=True):
      metrics, _ = self._evaluator.evaluate(
          compute_metrics=True, predict_fn=lambda dataset: list(self._predict(params, dataset, between_batches)),
          score_fn=lambda dataset: self._score_all(params, dataset, between_batches))
    values = {f"{task}/{name}": getattr(value, "value", value)
              for task, values in metrics.result().items() for name, value in values.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, numbers.Real)}

  def _predict(self, params: Any, dataset: Any, between_batches: Callable[[], None]) -> Iterator[tuple[int, list[int]]]:
    max_tokens = self._dataset.task_feature_lengths["targets"]
    for ids, batch in self._batches(dataset):
      between_batches()
      # A row begins with BOS and the inputs, which the converter marks; the last of them predicts the first target.
      lengths = batch["decoder_causal_attention"].sum(1)
      prompts = [row[1:length] for row, length in zip(batch["decoder_input_tokens"], lengths)]
      pieces = self._engine(params, prompts, max_tokens, bidirectional=self._both_ways)
      rows = np.concatenate([piece.tokens for piece in pieces], 1)
      # seqio stacks rows, so they have one length; its vocabularies end a text at the first EOS.
      rows = np.pad(rows, ((0, 0), (0, max_tokens - rows.shape[1])), constant_values=self._eos_id)
      yield from zip(ids, rows.tolist())

  def _score_all(self, params: Any, dataset: Any, between_batches: Callable[[], None]) -> list[tuple[int, float]]:
    scores: list[tuple[int, float]] = []
    for ids, batch in self._batches(dataset):
      between_batches()
      scores += zip(ids, np.asarray(self._score(params, batch)).tolist())
    return scores

  def _batches(self, dataset: Any) -> Iterator[tuple[list[int], Any]]:
    """(ids, batch) of an enumerated dataset; the last batch is filled up with its last row, which gets no id."""
    found, size = list(dataset.as_numpy_iterator()), self._dataset.batch_size
    numbers, rows = [number for number, _ in found], self._arranged([row for _, row in found])
    for start in range(0, len(rows), size):
      ids, group = numbers[start:start + size], rows[start:start + size]
      group += group[-1:] * (size - len(group))
      yield list(map(int, ids)), {name: np.stack([row[name] for row in group]).astype(np.int32) for name in group[0]}


@contextlib.contextmanager
def _registered(provider: Any) -> Iterator[str]:
  """A name for a task or mixture as the run has it, while seqio's evaluator is made, which takes nothing but a name."""
  import seqio
  registry = seqio.TaskRegistry if isinstance(provider, seqio.Task) else seqio.MixtureRegistry
  name = f"{provider.name}_{uuid.uuid4().hex}"
  registry.add_provider(name, provider)
  try:
    yield name
  finally:
    registry.remove(name)


def _scores(model: LanguageModel, params: Any, batch: Batch, both_ways: bool) -> jax.Array:
  """Log-likelihood [B] of each row's weighted targets."""
  tokens, targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
  output = model.forward(params, tokens, model.initial_memory(len(tokens), 0), (targets > 0).astype(jnp.int32),
                         batch["decoder_causal_attention"] if both_ways else None)
  return jnp.sum(model.token_log_probs(params, output.hidden, targets) * batch["decoder_loss_weights"], -1)
