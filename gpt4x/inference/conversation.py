"""A conversation with the model of a run: what was said lies in its memory, and is never read again."""

from collections.abc import Iterator
import dataclasses
import time
from typing import Any

import jax

from gpt4x.data import chat_template, vocabularies
from gpt4x.data.chat_template import ASSISTANT, Message, Piece
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.text import Text
from gpt4x.partitioning import Partitioner

_CHUNK = 8  # Tokens that are decoded before they are shown.


@dataclasses.dataclass(frozen=True)
class Turn:
  """What an answer took."""

  history: int  # Tokens of the conversation so far, this answer included.
  read: int  # Tokens that were new to the model before it answered.
  written: int  # Tokens of the answer.
  read_seconds: float
  write_seconds: float


class Conversation:
  """Messages and answers in turn, as the run's chat template writes them.

  Every token costs the same, however long the conversation is: the model has the `window` latest positions, and reads
  no more than what is new. Answers follow from the messages and the seed alone.
  """

  def __init__(self, model_dir: str, experiment: Experiment, *, sampling: Sampling = Sampling(),
               step: int | None = None, window: int | None = None, max_tokens: int = 256, seed: int = 0):
    """Prepares to answer.

    Args:
      model_dir: a run's directory; nothing else is read.
      experiment: the run's own.
      sampling: how tokens are drawn.
      step: the checkpoint; None: the newest.
      window: latest positions that each token attends to; None: a segment and the longer of the two memories.
      max_tokens: of an answer.
      seed: of the draws.
    """
    if experiment.dataset.feature_converter == "prefix_lm":
      raise UserError(f"the model in {model_dir} was trained on prompts that it sees in both directions, and a"
                      " conversation goes in one: use `gpt4x generate`, or train it with"
                      " DatasetConfig.feature_converter = 'causal_lm'")
    model = experiment.language_model
    self._vocabulary: Any = vocabularies.load(model_dir)
    self._template = chat_template.of_run(model_dir) or chat_template.Template()
    self._end, self._stop = self._template.stop(self._vocabulary)
    self._max_tokens, self._seed = max_tokens, seed
    self.window = experiment.decoding_window(window)
    self._engine = Engine(
        model, self.window, self._vocabulary.eos_id if self._end is None else self._end, self._vocabulary.vocab_size,
        sampling, chunk_length=_CHUNK, first_id=vocabularies.first_text_id(self._vocabulary),
        start_id=vocabularies.start_id(self._vocabulary))
    self._params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), step)[1]
    self.messages: list[Message] = []
    self.turns: list[Turn] = []
    self.reset()

  def reset(self, system: str | None = None) -> None:
    """Forgets everything; the next conversation may begin with a message of the role 'system'."""
    self.messages = [] if system is None else [{"role": "system", "content": system}]
    self.turns = []
    self._forget()

  def _forget(self) -> None:
    self._known: list[Piece] = []  # What is in the memory.
    self._prefilled: Prefilled | None = None
    self._history = 0

  def say(self, text: str) -> Iterator[str]:
    """Yields the answer to a message, piece by piece; it counts as given once the last has come."""
    messages = [*self.messages, {"role": "user", "content": text}]
    pieces = self._template.pieces(messages, generation=True)
    if self._known != pieces[:len(self._known)]:  # The template writes what was before in another way now.
      self._forget()
    start = time.perf_counter()
    new = self._read(pieces[len(self._known):])
    assert self._prefilled is not None
    self._known = pieces
    jax.block_until_ready(self._prefilled.logits)
    read_seconds, start = time.perf_counter() - start, time.perf_counter()
    stop = [self._stop] if self._stop.strip() else []
    answer = Text(self._vocabulary, [], self._max_tokens, stop, None if self._end is None else {self._end})
    slots = self._engine.start(self._params, self._prefilled, self._seed, [len(self.turns)])
    while not answer.finish_reason:
      piece, slots = self._engine.step(self._params, slots)
      yield answer.add(piece.tokens[0], piece.log_probs[0])
    write_seconds = time.perf_counter() - start
    self.messages = [*messages, {"role": ASSISTANT, "content": answer.text}]
    self._remember(pieces, answer)
    self.turns.append(Turn(self._history, new, len(answer.tokens), read_seconds, write_seconds))

  def _read(self, pieces: list[Piece]) -> int:
    """Puts pieces into the memory; returns their tokens."""
    ids, _ = chat_template.encode(pieces, self._vocabulary, begins=self._prefilled is None)
    self._extend(ids)
    return len(ids)

  def _extend(self, ids: list[int]) -> None:
    if self._prefilled is None:
      self._prefilled = self._engine.begin(self._params)
    self._prefilled = self._engine.extend(self._params, self._prefilled, ids)
    self._history += len(ids)

  def _remember(self, pieces: list[Piece], answer: Text) -> None:
    """Puts the answer as it was drawn into the memory, with what the template ends it by."""
    written = self._template.pieces(self.messages)
    end = 1 + max(number for number, piece in enumerate(written) if piece.answer)
    content = max(number for number, piece in enumerate(written) if piece.kind == "content")
    ending, _ = chat_template.encode(written[content + 1:end], self._vocabulary, begins=False)
    drawn = [token for token in answer.tokens if token != self._end]
    if answer.finish_reason == "stop":  # Its last tokens are the stop's, or a part of them.
      drawn = list(self._vocabulary.encode(answer.text))
    if written[:len(pieces)] != pieces:  # A template may begin an answer otherwise than it writes a given one.
      self._forget()
      return
    self._extend([*drawn, *ending])
    self._known = written[:end]
