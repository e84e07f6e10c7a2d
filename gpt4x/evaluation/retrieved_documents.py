"""Examples with documents ahead of their prompts: how well a model answers that may look things up."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import sys

import numpy as np

from gpt4x.data.dataset import Batch
from gpt4x.data.row_mixture import RowMixture
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.retrieval import Retriever

_SPARE = 8  # Documents to fall back to where the best ones are left out.


class Retrieved:
  """Puts documents ahead of the prompts of examples, one example a row, as far as there is room in the row.

  What the targets cost is asked of the same tokens as without documents. A document that holds the very prompt and,
  behind it, the answer is passed over: it would be the example itself.

  Attributes:
    experiment: with one example a row.
  """

  def __init__(self, experiment: Experiment, model_dir: str, step: int | None, directory: str, count: int = 1):
    """Opens the index; a UserError if it does not fit, or the data has no prompts."""
    config = experiment.dataset
    if config.carries_memory or isinstance(config, RowMixture) or config.feature_converter == "masked_lm":
      raise UserError(f"task {config.mixture_or_task_name} has no prompts alone to find documents for:"
                      " evaluate with DatasetConfig.feature_converter = 'lm', 'causal_lm' or 'prefix_lm'")
    self.experiment = dataclasses.replace(experiment, dataset=dataclasses.replace(config, pack=False))
    data = self.experiment.data
    if data.modalities or data.sequences:
      raise UserError(f"task {config.mixture_or_task_name} has {'media' if data.modalities else data.sequences},"
                      " and documents are put ahead of prompts of text with one answer: name another task")
    self._vocabulary = data.vocabulary
    self._retriever = Retriever(directory, self.experiment, model_dir, step, count, self._vocabulary)
    self._known = dict[tuple[bytes, int], list[int]]()  # What is ahead of a prompt, so that it is sought once.
    self._examples = self._used = self._cut = self._own = 0

  def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches with documents, [B, L] each feature."""
    for batch in batches:
      rows = self.rows([{name: values[row] for name, values in batch.items()} for row in range(len(batch[_TARGETS]))])
      yield {name: np.stack([row[name] for row in rows]) for name in batch}

  def rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> list[Batch]:
    """Rows with documents, [L] each feature; those without an answer stay as they are."""
    return [self._with_documents(row) for row in rows]

  def _with_documents(self, row: Mapping[str, np.ndarray]) -> Batch:
    real, weighted = row.get("decoder_segment_ids", row[_TARGETS]) > 0, row["decoder_loss_weights"] > 0
    if not weighted.any():
      return dict(row)
    length, first = int(np.flatnonzero(real)[-1]) + 1, int(np.argmax(weighted))
    ids = self._ahead(row[_TARGETS][:length], row["decoder_loss_weights"][:length], first, len(real) - length)
    found = dict[str, np.ndarray]()
    for name, values in row.items():
      # The start stays first, and what is behind it moves on.
      kept = int(name == "decoder_input_tokens")
      ahead = ids if name in (_TARGETS, "decoder_input_tokens") else [_AHEAD.get(name, 0)] * len(ids)
      if name == "decoder_segment_ids":
        ahead = [values[0]] * len(ids)
      moved = np.concatenate([values[:kept], np.array(ahead, values.dtype), values[kept:length]])
      found[name] = np.concatenate([moved, values[length:len(values) - len(ids)]])
    return found

  def _ahead(self, targets: np.ndarray, weights: np.ndarray, first: int, room: int) -> list[int]:
    key = targets.tobytes(), first
    if key not in self._known:
      question = self._vocabulary.decode(targets[:first].tolist())
      answer = self._vocabulary.decode(targets[weights > 0].tolist()).strip()
      near = self._retriever.find(question, _SPARE)
      documents = [one for one in near if not _holds(one.text, question.strip(), answer)]
      ahead = self._retriever.written(documents, room)
      self._known[key] = ahead.ids
      self._examples, self._used = self._examples + 1, self._used + bool(ahead.ids)
      self._cut, self._own = self._cut + bool(ahead.cut), self._own + (len(documents) < len(near))
    return self._known[key]

  def report(self) -> dict[str, float]:
    """`retrieved`, the share of the examples that have got a document; says what was cut or left out."""
    if self._cut:
      length = self.experiment.dataset.segment_length
      print(f"gpt4x: warning: documents of {self._cut:,} of {self._examples:,} examples are cut at their end, for rows"
            f" have {length} tokens: raise TASK_FEATURE_LENGTHS", file=sys.stderr)
    if self._own:
      print(f"gpt4x: warning: for {self._own:,} of {self._examples:,} examples a document was passed over that holds"
            " the very prompt and its answer: index documents, and not the examples", file=sys.stderr)
    return {"retrieved": self._used / max(1, self._examples)}


_TARGETS = "decoder_target_tokens"
_AHEAD = {"decoder_causal_attention": 1}  # Documents are seen as the inputs are; nothing of them counts.


def _holds(text: str, question: str, answer: str) -> bool:
  """Whether a text has a question with its answer behind it."""
  text, question = " ".join(text.split()), " ".join(question.split())
  place = text.find(question) if question else -1
  return place >= 0 and " ".join(answer.split()) in text[place + len(question):]
