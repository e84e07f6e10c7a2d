"""The tokens of a job that is alone, guessed."""

import time

from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.inference.speculation import Proposer, Speculation
from gpt4x.models.language_model import Params
from gpt4x.serving.job import Job
from gpt4x.serving.rows import Rows

_TRIED = 4  # Guesses after which they must have paid.
_REST = 64  # Tokens for which nothing is guessed where they have not.


class Guessing:
  """Lets the model judge guesses, as long as that is faster than to draw one token after the other."""

  def __init__(self, engine: Engine, params: Params, propose: Proposer):
    self._engine, self._params, self._propose = engine, params, propose
    self._speculation = Speculation(engine)
    self._job: Job | None = None  # Whose guesses are counted:
    self._guesses = self._right = 0  # how many, and how many tokens were gained;
    self._from = 0  # and from which token on it is guessed again.
    self.pays = 1.0  # Tokens of a guess, from which on it is faster.

  def step(self, rows: Rows) -> bool:
    """Some tokens of the job that has the only slot; whether there was a guess for it."""
    if (job := rows.alone) is None:
      return False
    if job is not self._job:
      self._job, self._guesses, self._right, self._from = job, 0, 0, 0
    if len(job.text.tokens) < self._from:
      return False
    guess = self._propose([*job.request.ids, *job.text.tokens], self._speculation.count)
    if not guess:
      return False
    count = rows.judge(self._speculation, guess)
    job.counts["guessed_tokens"] += count - 1
    self._guesses, self._right = self._guesses + 1, self._right + count
    if self._guesses >= _TRIED and self._right < self.pays * self._guesses:
      self._guesses, self._right, self._from = 0, 0, len(job.text.tokens) + _REST
    return True

  def warm_up(self, row: Prefilled) -> None:
    """Compiles what guesses need, and sees how many of their tokens must be right for them to pay."""
    text = [1] * (2 * max(self._engine.piece_lengths))
    for length in (len(text), *self._engine.piece_lengths, 1):  # What guesses may have to read of a text.
      self._propose(text := [*text, *[1] * length], self._speculation.count)
    slots = self._engine.insert(self._params, self._engine.empty(self._params, 1), 0, row)
    length = self._speculation.count
    for _ in range(2):
      start = time.perf_counter()
      guess = self._propose(text := [*text, 1], length)
      _, slots = self._speculation.step(self._params, slots, guess or [1])
      judged, start = time.perf_counter() - start, time.perf_counter()
      _, slots = self._engine.step(self._params, slots, length)
      self.pays = judged * length / (time.perf_counter() - start)
