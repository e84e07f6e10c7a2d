"""Text by the model of a run."""

from collections.abc import Iterator, Sequence
import functools
from typing import Any
import zlib

import gin

from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.text import Completion, Text
import gpt4x.media.vocabulary  # noqa: F401  Registers its class, which a run may have.
from gpt4x.partitioning import Partitioner


def generate(model_dir: str, experiment: Experiment, prompt: str, *, max_tokens: int = 256, seed: int = 0,
             stop: Sequence[str] = (), **options: Any) -> Iterator[str]:
  """Yields the continuation of one prompt, piece by piece; the arguments are those of `Generator` and its calls."""
  return Generator(model_dir, experiment, **options).stream(prompt, max_tokens=max_tokens, seed=seed, stop=stop)


@gin.configurable("generate", allowlist=["window"])
class Generator:
  """The model of a run, as it continues text. A text ends with its document, before a stop, or after max_tokens.

  The same prompt, seed and sample number give the same text, whatever is generated beside it.
  """

  def __init__(self, model_dir: str, experiment: Experiment, *, sampling: Sampling = Sampling(),
               step: int | None = None, window: int | None = None):
    """Prepares to generate.

    Args:
      model_dir: a run's directory; nothing else is read.
      experiment: the run's own.
      sampling: how tokens are drawn.
      step: the checkpoint; None: the newest.
      window: latest positions that each token attends to; None: a segment and the longer of the two memories.
    """
    self._model_dir, self._experiment, self._step = model_dir, experiment, step
    model, dataset = experiment.language_model, experiment.dataset
    config = model.config
    self._vocabulary = vocabularies.load(model_dir)
    if window is None:
      memory = max(experiment.memory_length, experiment.eval_memory_length)
      window = memory if config.same_length and memory else memory + dataset.segment_length
    if window < 1:
      raise UserError(f"generate.window = {window} must be at least 1")
    self._bidirectional = dataset.feature_converter == "prefix_lm"
    self._ids = range(vocabularies.first_text_id(self._vocabulary), config.vocab_size)
    self._engine = Engine(model, window, self._vocabulary.eos_id, self._vocabulary.vocab_size, sampling,
                          first_id=self._ids.start)

  def stream(self, prompt: str, *, max_tokens: int = 256, seed: int = 0, stop: Sequence[str] = ()) -> Iterator[str]:
    """Yields the continuation of one prompt, piece by piece."""
    (row,), pieces = self._start([(prompt, 0)], max_tokens, seed, stop)
    for tokens, log_probs in pieces:
      yield row.add(tokens[0], log_probs[0])
      if row.finish_reason:
        return

  def complete(self, prompts: Sequence[str], *, num_samples: int = 1, max_tokens: int = 256, seed: int = 0,
               stop: Sequence[str] = (), batch_size: int = 16) -> Iterator[Completion]:
    """Yields `num_samples` continuations of each prompt in turn; `batch_size` of them are decoded together."""
    rows = [(prompt, sample) for prompt in prompts for sample in range(num_samples)]
    for prompt in dict.fromkeys(prompts):
      self._encode(prompt)  # A mistake in the last comes before the first has cost anything.
    batches = -(-len(rows) // batch_size)
    size = -(-len(rows) // max(batches, 1))  # All batches have one size, so the engine compiles once.
    for start in range(0, len(rows), max(size, 1)):
      batch = rows[start:start + size]
      texts, pieces = self._start(batch + batch[-1:] * (size - len(batch)), max_tokens, seed, stop)
      for tokens, log_probs in pieces:
        for text, *row in zip(texts, tokens, log_probs):
          text.add(*row)
        if all(text.finish_reason for text in texts):
          break
      for (prompt, sample), text in zip(batch, texts):
        assert text.finish_reason
        yield Completion(prompt, sample, text.text, text.finish_reason, text.tokens, text.log_probs)

  def _start(self, rows: Sequence[tuple[str, int]], max_tokens: int, seed: int, stop: Sequence[str]):
    """The texts of (prompt, sample) rows, and the engine's pieces that will fill them."""
    if "" in stop:
      raise UserError("a stop text is empty: every text would end before it began")
    ids = [self._encode(prompt) for prompt, _ in rows]
    # With the prompt in its number, a row does not draw what the other prompts' rows draw.
    numbers = [zlib.crc32(f"{sample} {prompt}".encode()) for prompt, sample in rows]
    pieces = self._engine(self._params, ids, max_tokens, seed, self._bidirectional, numbers)
    return [Text(self._vocabulary, row, max_tokens, stop) for row in ids], pieces

  @functools.cached_property
  def _params(self) -> Any:
    """Read when they are needed, so that a wrong prompt is told of at once."""
    return self._experiment.restore_params(self._model_dir, Partitioner(data=1, num_devices=1), self._step)[1]

  def _encode(self, prompt: str) -> Sequence[int]:
    ids = self._vocabulary.encode(prompt)
    for token in ids:
      if token not in self._ids:
        raise UserError(
            f"the prompt has the token {token}, and the model knows {self._ids.start} to {self._ids.stop - 1}: change"
            f" the prompt, or copy the vocabulary that the model was trained with into {self._model_dir}")
    return ids
