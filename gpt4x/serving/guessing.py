"""A job that is alone, whose tokens are guessed."""

import time

from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.inference.speculation import Alone, Proposer, Speculation
from gpt4x.models.language_model import Params
from gpt4x.serving.job import Job
from gpt4x.serving.rows import CHUNK

_TRIED = 8  # Steps after which guesses must pay.


class Guessing:
  """Lets the model judge guesses, as long as that is faster than drawing one token after the other."""

  def __init__(self, engine: Engine, params: Params, propose: Proposer):
    self._engine, self._params, self._propose = engine, params, propose
    self._speculation = Speculation(engine)
    self._row: Alone
    self._steps = 0  # Since the job came.
    self.pays = 1.0  # Tokens of a step, from which on it is faster than the slots are.
    self.job: Job | None = None

  def begin(self, job: Job, prefilled: Prefilled) -> None:
    """Takes a job that is alone, and tells its first token."""
    request = job.request
    chunk, self._row = self._speculation.start(prefilled, request.seed, request.sample, request.sampling, request.ids)
    self.job, self._steps = job if job.take(chunk, 0) else None, 0

  def step(self) -> None:
    """Some tokens of the job."""
    assert self.job
    guess = self._propose([*self.job.request.ids, *self.job.text.tokens], self._speculation.count)
    chunk, self._row = self._speculation.step(self._params, self._row, guess)
    self._steps += 1
    self.job.counts["guessed_tokens"] += chunk.tokens.shape[1] - 1
    if not self.job.take(chunk, 0):
      self.job = None

  @property
  def slow(self) -> bool:
    """Whether the job would be faster in a slot."""
    return self.job is not None and self._steps >= _TRIED and len(self.job.text.tokens) < self.pays * self._steps

  def leave(self) -> tuple[Job, Prefilled]:
    """Gives the job away, and what its tokens leave."""
    assert self.job
    job, self.job = self.job, None
    return job, self._speculation.leave(self._params, self._row)

  def warm_up(self, row: Prefilled) -> None:
    """Compiles what guesses need, and sees how many of their tokens must be right for them to pay."""
    text = [1] * (2 * max(self._engine.piece_lengths))
    for length in (len(text), *self._engine.piece_lengths, 1):  # What guesses may have to read of a text.
      self._propose(text := [*text, *[1] * length], self._speculation.count)
    slots = self._engine.insert(self._params, self._engine.empty(self._params, 1), 0, row)
    _, alone = self._speculation.start(row)
    for _ in range(2):
      start = time.perf_counter()
      guess = self._propose(text := [*text, 1], self._speculation.count)
      _, alone = self._speculation.step(self._params, alone, guess)
      judged, start = time.perf_counter() - start, time.perf_counter()
      _, slots = self._engine.step(self._params, slots, CHUNK)
      self.pays = judged * CHUNK / (time.perf_counter() - start)
    self._speculation.leave(self._params, alone)
